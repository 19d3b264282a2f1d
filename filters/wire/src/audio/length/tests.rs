use super::*;

/// Milliseconds of a sound, whatever the pieces it comes in.
fn measured(content_type: &str, sound: &[u8]) -> Option<u128> {
    let lengths = [1, 2, 3, 5, 7, 64, 4096, usize::MAX].map(|size| {
        let mut length = SoundLength::of(content_type);
        sound.chunks(size.min(sound.len().max(1))).for_each(|piece| length.add(piece));
        length.so_far().map(|so_far| so_far.as_millis())
    });
    assert!(lengths.iter().all(|length| *length == lengths[0]), "{content_type}: {lengths:?}");
    lengths[0]
}

fn wav(more: &[u8], rate: u32, samples: usize) -> Vec<u8> {
    let mut sound = [b"RIFF\xff\xff\xff\xffWAVE".as_slice(), more, b"fmt \x10\0\0\0\x01\0\x01\0"].concat();
    sound.extend(rate.to_le_bytes());
    sound.extend((rate * 2).to_le_bytes());
    sound.extend(b"\x02\0\x10\0data\xff\xff\xff\xff"); // the length of a stream is not known in its head
    sound.extend(vec![0; samples * 2]);
    sound
}

fn frames(head: &[u8], length: usize, count: usize) -> Vec<u8> {
    let mut frame = head.to_vec();
    frame.resize(length, 0x55);
    frame.repeat(count)
}

#[test]
fn samples_are_counted_by_the_rate_of_their_head() {
    assert_eq!(measured("audio/wav", &wav(b"", 24_000, 36_000)), Some(1500));
    assert_eq!(measured("audio/x-wav", &wav(b"LIST\x03\0\0\0abc\0", 8_000, 800)), Some(100));
    assert_eq!(measured("application/octet-stream", &wav(b"", 16_000, 16_000)), Some(1000));
    // cut inside the head: nothing is known, and nothing was heard
    assert_eq!(measured("audio/wav", &wav(b"", 24_000, 0)), None);
    assert_eq!(measured("audio/wav", &wav(b"", 0, 100)), None);
}

#[test]
fn samples_without_a_head_have_the_rate_of_their_type() {
    assert_eq!(measured("audio/pcm", &[1; 48_000]), Some(1000));
    assert_eq!(measured("audio/L16; rate=16000", &[1; 16_000]), Some(500));
    assert_eq!(measured("audio/L16;rate=16000;channels=2", &[0xff; 16_000]), Some(250));
    assert_eq!(measured("audio/L16; rate=0", &[1; 100]), None);
}

#[test]
fn frames_of_mp3_are_counted_whatever_stands_around_them() {
    // MPEG-1, 128 kbit/s, 44100: 417 bytes are 26.122 ms. MPEG-2, 64 kbit/s, 24000: 192 bytes are 24 ms
    let (first, second) = (frames(b"\xff\xfb\x90\x00", 417, 100), frames(b"\xff\xf3\x84\x00", 192, 100));
    assert_eq!(measured("audio/mpeg", &first), Some(2612));
    assert_eq!(measured("audio/mpeg", &second), Some(2400));
    let tagged = [b"ID3\x04\0\0\0\0\x01\x02".as_slice(), &[0; 130], &second, b"TAG", &[b' '; 125]].concat();
    assert_eq!(measured("audio/mp3", &tagged), Some(2400));
    // a frame of which the end is missing has begun
    assert_eq!(measured("audio/mpeg", &second[..second.len() - 50]), Some(2400));
}

#[test]
fn frames_of_aac_are_counted() {
    // 24000 samples per second, 100 bytes: 42.667 ms
    let head = [0xff, 0xf1, 6 << 2, 0x80, 100 >> 3, (100 & 7) << 5 | 0x1f, 0xfc];
    assert_eq!(measured("audio/aac", &frames(&head, 100, 30)), Some(1279));
}

/// A page of Ogg that ends at this sample.
fn page(position: u64, body: &[u8]) -> Vec<u8> {
    let mut page = [b"OggS\0\0".as_slice(), &position.to_le_bytes(), &[0; 12]].concat();
    let (whole, rest) = (body.len() / 255, u8::try_from(body.len() % 255).unwrap());
    page.push(u8::try_from(whole + 1).unwrap());
    page.extend(vec![255; whole]);
    page.push(rest);
    page.extend(body);
    page
}

#[test]
fn pages_of_ogg_tell_where_they_end() {
    let opus = page(0, b"OpusHead\x01\x01\x38\x01\x80\xbb\0\0\0\0\0");
    let tags = page(0, &[b'x'; 700]);
    let speech = [opus, tags, page(24_312, &[1; 3000]), page(u64::MAX, &[2; 10]), page(48_312, &[3; 10])].concat();
    assert_eq!(measured("audio/ogg", &speech), Some(1000), "312 samples at the begin are not heard");
    let vorbis = page(0, b"\x01vorbis\0\0\0\0\x02\x44\xac\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01");
    assert_eq!(measured("audio/ogg", &[vorbis, page(22_050, b"x")].concat()), Some(500));
    assert_eq!(measured("audio/ogg", &page(0, b"another codec, of which nothing is known")), None);
}

#[test]
fn a_description_of_flac_tells_its_length() {
    let info = |rate: u64, samples: u64| {
        let described = (rate << 44 | samples).to_be_bytes();
        [b"fLaC\x80\0\0\x22".as_slice(), &[0; 10], &described, &[0; 16], &[9; 100]].concat()
    };
    assert_eq!(measured("audio/flac", &info(24_000, 12_000)), Some(500));
    assert_eq!(measured("audio/flac", &info(24_000, 0)), None, "a stream does not know it");
}

#[test]
fn what_is_no_sound_has_no_length_and_ends_nothing() {
    for content in
        [&b""[..], b"x", b"<html>", b"\xff\xf3\x00 not text \xfe", b"RIFF1234AVI ", b"OggSxx", b"fLaC", b"ID3"]
    {
        assert_eq!(measured("audio/mpeg", content), None, "{content:?}");
    }
    // every byte may stand anywhere
    let mut state = 0x9e37_79b9_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(1 << 16)
    .collect();
    for magic in [&b"RIFF"[..], b"OggS", b"fLaC", b"ID3\x04", b"\xff\xfb\x90\x00", b"\xff\xf1\x50\x80"] {
        let sound = [magic, &noise].concat();
        let mut length = SoundLength::of("audio/mpeg");
        sound.chunks(777).for_each(|piece| length.add(piece));
        assert!(length.so_far().is_none_or(|so_far| so_far < Duration::from_secs(3600 * 24 * 365 * 600)));
        assert!(length.head.capacity() <= 2 * MOST);
    }
}
