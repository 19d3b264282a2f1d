//! Speed of the request scan.
fn main() {
    divan::main();
}
