//! Chunks of a stream, one on each line: each is read as if it were the only one, whatever came before it.

#![no_main]

use bytes::Bytes;
use dgx_gateway_wire::answer::{ChunkReader, Rules, rewrite_chunk};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    for client_wants_usage in [false, true] {
        let rules = Rules { model: "mine", client_wants_usage };
        let mut reader = ChunkReader::default();
        for line in input.split(|byte| *byte == b'\n') {
            let data = Bytes::copy_from_slice(line);
            assert_eq!(reader.rewrite(&data, &rules), rewrite_chunk(&data, &rules));
        }
    }
});
