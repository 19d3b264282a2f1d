//! How long a sound lasts, found out while it passes: from what its frames, pages or head say. Nothing is decoded.

#[cfg(test)]
mod tests;

use std::time::Duration;

const NANOS: u64 = 1_000_000_000;
/// Most bytes of a head that is looked at: a page of Ogg has up to 255 lengths.
const MOST: usize = 256;
/// Samples without a head, as model servers send them where nothing else is said: 24000 of 16 bits a second.
const RAW_BYTES_PER_SECOND: u64 = 48_000;
const RAW_TYPES: [&str; 3] = ["audio/l16", "audio/pcm", "audio/raw"];
/// Kilobits per second by the number in a frame of layer III: of MPEG-1, and of the halved rates of MPEG-2.
const BITRATES: [[u32; 16]; 2] = [
    [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0],
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0],
];
/// Samples per second by the number in a frame of MPEG-1; MPEG-2 halves them, MPEG-2.5 once more.
const MPEG_RATES: [u32; 4] = [44_100, 48_000, 32_000, 0];
/// Samples per second by the number in a frame of ADTS.
const ADTS_RATES: [u32; 16] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350, 0, 0, 0];

/// What stands next in the sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The first bytes.
    Start,
    /// The rest of the head of RIFF, then chunks.
    Riff,
    Chunk,
    /// The form of the samples, in a chunk of so many bytes.
    Format {
        size: u32,
    },
    /// Samples until the end.
    Samples,
    /// The rest of the head of an ID3 tag.
    Tag,
    /// A frame of MP3 or AAC.
    Frame,
    /// A page of Ogg, the lengths in it, and the begin of the first packet.
    Page,
    Lengths {
        count: u8,
    },
    Packet {
        left: u64,
    },
    /// The description of a FLAC stream.
    StreamInfo,
    /// Nothing that says more.
    Nothing,
}

/// Measures one sound.
#[derive(Debug)]
pub struct SoundLength {
    next: Next,
    head: Vec<u8>,
    /// Bytes that say nothing.
    skip: u64,
    /// Samples without a head, if the type says so.
    raw: bool,
    bytes_per_second: u64,
    sample_bytes: u64,
    frames: u64,
    frame_nanos: u64,
    /// Samples per second of Ogg, and samples at its begin that are not heard.
    rate: u64,
    unheard: u64,
    /// What the sound says of its length itself.
    told: Option<Duration>,
}

impl SoundLength {
    /// Begins with a sound of this media type.
    #[must_use]
    pub fn of(content_type: &str) -> Self {
        let mut parts = content_type.split(';').map(|part| part.trim().to_ascii_lowercase());
        let raw = parts.next().is_some_and(|essence| RAW_TYPES.contains(&&*essence));
        let (mut rate, mut channels) = (None, 1);
        for (name, value) in parts
            .filter_map(|part| Some((part.split_once('=')?.0.to_owned(), part.split_once('=')?.1.parse::<u32>().ok()?)))
        {
            match &*name {
                "rate" => rate = Some(u64::from(value)),
                "channels" => channels = u64::from(value),
                _ => {}
            }
        }
        let bytes_per_second = rate.map_or(RAW_BYTES_PER_SECOND, |rate| rate * 2 * channels);
        Self {
            next: Next::Start,
            head: Vec::new(),
            skip: 0,
            raw: raw && bytes_per_second > 0,
            bytes_per_second,
            sample_bytes: 0,
            frames: 0,
            frame_nanos: 0,
            rate: 0,
            unheard: 0,
            told: None,
        }
    }

    /// How long what has passed lasts; `None` when the sound does not tell.
    #[must_use]
    pub fn so_far(&self) -> Option<Duration> {
        if self.frames > 0 {
            return Some(Duration::from_nanos(self.frame_nanos));
        }
        if self.sample_bytes > 0 {
            return Some(length(self.sample_bytes, self.bytes_per_second));
        }
        self.told
    }

    /// Takes the next piece, wherever it was cut.
    pub fn add(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() && self.next != Next::Nothing {
            if self.next == Next::Samples {
                self.sample_bytes += piece.len() as u64;
                return;
            }
            let skipped = piece.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            self.skip -= skipped as u64;
            piece = piece.get(skipped..).unwrap_or_default();
            let wanted = self.wanted().min(MOST).saturating_sub(self.head.len()).min(piece.len());
            let (taken, rest) = piece.split_at(wanted);
            self.head.extend_from_slice(taken);
            piece = rest;
            if self.skip == 0 && self.head.len() >= self.wanted() {
                let head = std::mem::take(&mut self.head);
                self.next = self.step(&head).unwrap_or(Next::Nothing);
            }
        }
    }

    /// Bytes that have to be there for the next step.
    fn wanted(&self) -> usize {
        match self.next {
            Next::Start => 4,
            Next::Riff | Next::Chunk => 8,
            Next::Format { .. } => 16,
            Next::Tag => 6,
            Next::Frame => 7,
            Next::Page => 27,
            Next::Lengths { count } => count.into(),
            Next::Packet { left } => usize::try_from(left).unwrap_or(usize::MAX).min(19),
            Next::StreamInfo => 4 + 18,
            Next::Samples | Next::Nothing => 0,
        }
    }

    /// Reads a head; `None` when it makes no sense.
    fn step(&mut self, head: &[u8]) -> Option<Next> {
        Some(match self.next {
            Next::Start => self.begin(head)?,
            Next::Riff => head.ends_with(b"WAVE").then_some(Next::Chunk)?,
            Next::Chunk => {
                let size = number(head, 4)?;
                match head.get(..4)? {
                    b"fmt " if size >= 16 => Next::Format { size },
                    b"data" if self.bytes_per_second > 0 => Next::Samples,
                    _ => self.after(padded(size), Next::Chunk),
                }
            }
            Next::Format { size } => {
                self.bytes_per_second = number(head, 8)?.into();
                self.after(padded(size) - 16, Next::Chunk)
            }
            Next::Tag => {
                // version, flags, a size of seven bits a byte; four bytes stood before it
                let size = head.get(2..6)?.iter().fold(0, |size, byte| size << 7 | u64::from(byte & 0x7f));
                self.after(size, Next::Frame)
            }
            Next::Frame => self.frame(head)?,
            Next::Page => self.page(head)?,
            Next::Lengths { .. } => {
                let left = head.iter().copied().map(u64::from).sum();
                // the first packet says what the sound is
                if self.rate == 0 { Next::Packet { left } } else { self.after(left, Next::Page) }
            }
            Next::Packet { left } => {
                self.packet(head)?;
                self.after(left - head.len() as u64, Next::Page)
            }
            Next::StreamInfo => self.stream_info(head)?,
            Next::Samples | Next::Nothing => return None,
        })
    }

    fn after(&mut self, skip: u64, next: Next) -> Next {
        self.skip = skip;
        next
    }

    /// Tells forms apart by their first bytes: the type that a server names is often another.
    fn begin(&mut self, head: &[u8]) -> Option<Next> {
        Some(match head {
            b"RIFF" => {
                self.bytes_per_second = 0; // until it is said
                Next::Riff
            }
            b"OggS" => {
                self.head = head.to_vec();
                Next::Page
            }
            b"fLaC" => Next::StreamInfo,
            [b'I', b'D', b'3', _] => Next::Tag,
            [0xff, second, ..] if second & 0xe0 == 0xe0 && !self.raw => {
                self.head = head.to_vec();
                Next::Frame
            }
            _ if self.raw => {
                self.sample_bytes = head.len() as u64;
                Next::Samples
            }
            _ => return None,
        })
    }

    fn frame(&mut self, head: &[u8]) -> Option<Next> {
        match mpeg(head).or_else(|| adts(head)) {
            Some(Frame { samples, rate, length }) => {
                self.frames += 1;
                self.frame_nanos += u64::from(samples) * NANOS / u64::from(rate);
                Some(self.behind(u64::from(length), head))
            }
            // a tag between or behind frames: the next byte that looks like a frame
            None if self.frames > 0 => {
                self.head = head.get(1..)?.to_vec();
                Some(Next::Frame)
            }
            None => None,
        }
    }

    /// The frame that begins so many bytes behind the begin of this head.
    fn behind(&mut self, length: u64, head: &[u8]) -> Next {
        self.skip = length.saturating_sub(head.len() as u64);
        Next::Frame
    }

    fn page(&mut self, head: &[u8]) -> Option<Next> {
        if !head.starts_with(b"OggS") {
            return None;
        }
        let position = u64::from_le_bytes(head.get(6..14)?.try_into().ok()?);
        if self.rate > 0 && position != u64::MAX {
            let heard = length(position.saturating_sub(self.unheard), self.rate);
            self.told = self.told.max(Some(heard));
        }
        match *head.get(26)? {
            0 => Some(Next::Page),
            count => Some(Next::Lengths { count }),
        }
    }

    fn packet(&mut self, head: &[u8]) -> Option<()> {
        if head.starts_with(b"OpusHead") {
            self.unheard = u16::from_le_bytes(head.get(10..12)?.try_into().ok()?).into();
            self.rate = 48_000; // whatever was recorded
        } else if head.starts_with(b"\x01vorbis") {
            self.rate = number(head, 12)?.into();
        }
        (self.rate > 0).then_some(())
    }

    fn stream_info(&mut self, head: &[u8]) -> Option<Next> {
        let described = u64::from_be_bytes(head.get(14..22)?.try_into().ok()?);
        let (rate, samples) = (described >> 44, described & 0x0f_ffff_ffff);
        if head.first()? & 0x7f == 0 && rate > 0 && samples > 0 {
            self.told = Some(length(samples, rate));
        }
        None
    }
}

struct Frame {
    samples: u32,
    rate: u32,
    /// In bytes, its head included.
    length: u32,
}

/// A frame of MPEG audio, layer III (ISO/IEC 11172-3, 13818-3).
fn mpeg(head: &[u8]) -> Option<Frame> {
    let [0xff, b, c, ..] = *head else { return None };
    if b & 0xe6 != 0xe2 {
        return None;
    }
    let halvings = match b >> 3 & 3 {
        0 => 2,
        2 => 1,
        3 => 0,
        _ => return None,
    };
    let samples = if halvings == 0 { 1152 } else { 576 };
    let rate = MPEG_RATES.get(usize::from(c >> 2 & 3))? >> halvings;
    let bitrate = *BITRATES.get(usize::from(halvings > 0))?.get(usize::from(c >> 4))?;
    if rate == 0 || bitrate == 0 {
        return None;
    }
    Some(Frame { samples, rate, length: samples / 8 * bitrate * 1000 / rate + u32::from(c >> 1 & 1) })
}

/// A frame of AAC in ADTS (ISO/IEC 13818-7).
fn adts(head: &[u8]) -> Option<Frame> {
    let [0xff, b, c, d, e, f, g] = *head else { return None };
    let rate = *ADTS_RATES.get(usize::from(c >> 2 & 15))?;
    let length = u32::from(d & 3) << 11 | u32::from(e) << 3 | u32::from(f) >> 5;
    (b & 0xf6 == 0xf0 && rate > 0 && length >= 7).then_some(Frame {
        samples: 1024 * (u32::from(g & 3) + 1),
        rate,
        length,
    })
}

/// Chunks begin at even places.
fn padded(size: u32) -> u64 {
    u64::from(size).next_multiple_of(2)
}

fn number(head: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?))
}

fn length(units: u64, per_second: u64) -> Duration {
    let nanos = u128::from(units) * u128::from(NANOS) / u128::from(per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
