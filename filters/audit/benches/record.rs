//! What a record costs the request that it is about.

fn main() {
    divan::main();
}
