//! Events of a stream, each ended by a blank line: each is read as if it were the only one, whatever came before it.

#![no_main]

use bytes::Bytes;
use dgx_gateway_wire::answer::{Chunk, ChunkReader, Repeated, Rewritten, Rules, rewrite_chunk};
use dgx_gateway_wire::sse::{Event, Framer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    for client_wants_usage in [false, true] {
        let rules = Rules { model: "mine", client_wants_usage };
        let (mut reader, mut framer) = (ChunkReader::default(), Framer::new(1 << 20));
        framer.push(Bytes::copy_from_slice(input));
        while let Some(Ok(raw)) = framer.next_raw() {
            let event = Event::parse(raw.clone());
            let Rewritten { chunk, data, drop } = rewrite_chunk(&event.data, &rules);
            match reader.repeated(&raw) {
                Some(Repeated { text_bytes, choices, event: sent }) => {
                    assert_eq!(chunk, Chunk { semantic: true, text_bytes, choices, ..Chunk::default() });
                    assert_eq!((event.in_one_line(data), drop), (sent, false));
                    assert_eq!(event.name, None);
                }
                None => assert_eq!(reader.rewrite(&event, &rules), Rewritten { chunk, data, drop }),
            }
        }
    }
});
