//! The part of `libz-ng-sys` that `flate2` uses, served by the pure-Rust `zlib-rs`.
//!
//! The proxy engine asks for flate2's zlib-ng backend, whose C build needs cmake. This crate has the same
//! names and the same memory layout, so that a fresh machine with a Rust toolchain and gcc builds the gateway.
//! It goes away when the engine offers another backend.
#![allow(non_camel_case_types, non_snake_case, clippy::missing_safety_doc, reason = "C names, C contracts")]

use std::ffi::{c_char, c_int, c_void};
use std::mem::{align_of, size_of};

pub use libz_rs_sys::{
    Bytef, Z_BLOCK, Z_BUF_ERROR, Z_DATA_ERROR, Z_DEFAULT_STRATEGY, Z_DEFLATED, Z_FINISH, Z_FULL_FLUSH, Z_MEM_ERROR,
    Z_NEED_DICT, Z_NO_FLUSH, Z_OK, Z_PARTIAL_FLUSH, Z_STREAM_END, Z_STREAM_ERROR, Z_SYNC_FLUSH, uInt, uLong, zlibVersion,
};

/// Allocates `items * size` bytes; never null as a function pointer in these bindings.
pub type alloc_func = extern "C" fn(*mut c_void, uInt, uInt) -> *mut c_void;
/// Frees what `alloc_func` gave.
pub type free_func = extern "C" fn(*mut c_void, *mut c_void);

/// `z_stream` with function pointers that cannot be null; `Option` of a function pointer has the same layout.
#[repr(C)]
pub struct z_stream {
    pub next_in: *mut Bytef,
    pub avail_in: uInt,
    pub total_in: uLong,
    pub next_out: *mut Bytef,
    pub avail_out: uInt,
    pub total_out: uLong,
    pub msg: *mut c_char,
    pub state: *mut c_void,
    pub zalloc: alloc_func,
    pub zfree: free_func,
    pub opaque: *mut c_void,
    pub data_type: c_int,
    pub adler: uLong,
    pub reserved: uLong,
}

const _: () = assert!(size_of::<z_stream>() == size_of::<libz_rs_sys::z_stream>());
const _: () = assert!(align_of::<z_stream>() == align_of::<libz_rs_sys::z_stream>());

macro_rules! forward {
    ($($function:ident($($argument:ident: $kind:ty),*);)*) => {$(
        pub unsafe fn $function(stream: *mut z_stream $(, $argument: $kind)*) -> c_int {
            // SAFETY: both structs have one layout (checked above); the caller keeps zlib's contract.
            unsafe { libz_rs_sys::$function(stream.cast::<libz_rs_sys::z_stream>() $(, $argument)*) }
        }
    )*};
}

forward! {
    deflate(flush: c_int);
    deflateEnd();
    deflateInit2_(level: c_int, method: c_int, window: c_int, memory: c_int, strategy: c_int, version: *const c_char, size: c_int);
    deflateParams(level: c_int, strategy: c_int);
    deflateReset();
    deflateSetDictionary(dictionary: *const Bytef, length: uInt);
    inflate(flush: c_int);
    inflateEnd();
    inflateInit2_(window: c_int, version: *const c_char, size: c_int);
    inflateReset2(window: c_int);
    inflateSetDictionary(dictionary: *const Bytef, length: uInt);
}
