//! Decoding of the usual JPEG files, and of a rectangle of one without the rest of it: sequential, Huffman-coded, 8 bits, gray
//! or YCbCr with chroma of full size or halved (4:4:4, 4:2:2, 4:2:0), as ITU-T T.81 and JFIF define them.
//!
//! Pixels are those of libjpeg-turbo, and so of Pillow, byte for byte ([`kernels::jpeg`]). Everything else that is allowed in
//! a JPEG file, and every damaged file, is left to the `image` crate.

use crate::picture::Picture;
use kernels::jpeg::{between_rows, double_columns, inverse_dct, ycc_to_rgb};
use kernels::resample::Window;
use kernels::simd::Isa;

/// Where the coefficients of a scan belong in a block.
#[rustfmt::skip]
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// A file whose headers were read.
pub(crate) struct Jpeg<'a> {
    pub width: usize,
    pub height: usize,
    components: Vec<Component>,
    steps: [Option<Box<[u16; 64]>>; 4],
    /// Huffman tables: DC, then AC.
    tables: [[Option<Box<Huffman>>; 4]; 2],
    /// MCUs between restart markers; 0 for none.
    restart: usize,
    /// The entropy-coded data and what follows.
    scan: &'a [u8],
}

/// Y, Cb or Cr.
struct Component {
    id: u8,
    /// Blocks in an MCU, across and down.
    across: usize,
    down: usize,
    steps: usize,
    dc: usize,
    ac: usize,
}

/// Bits that the first look at a code sees.
const LOOK: u32 = 10;

/// A Huffman table, to be asked with the next bits.
struct Huffman {
    /// For the next [`LOOK`] bits: length of the code and its symbol; length 0 for a longer code.
    short: [(u8, u8); 1 << LOOK],
    /// For AC codes whose value is within the same bits too: value, run of zeros, length in all; length 0 for others.
    whole: [(i16, u8, u8); 1 << LOOK],
    /// For each length, the first code that is longer, at the top of 16 bits; and what leads from a code to its symbol.
    limit: [u32; 18],
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Huffman> {
        let mut table = Huffman {
            short: [(0, 0); 1 << LOOK],
            whole: [(0, 0, 0); 1 << LOOK],
            limit: [0; 18],
            offset: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut at) = (0u32, 0usize);
        for length in 1..=16usize {
            table.offset[length] = at as i32 - code as i32;
            for _ in 0..counts[length - 1] {
                let &symbol = symbols.get(at)?;
                if code >= 1 << length {
                    return None;
                }
                if let Some(rest) = LOOK.checked_sub(length as u32) {
                    let first = (code << rest) as usize;
                    table.short[first..first + (1 << rest)].fill((length as u8, symbol));
                }
                (code, at) = (code + 1, at + 1);
            }
            table.limit[length] = code << (16 - length);
            code <<= 1;
        }
        table.limit[17] = u32::MAX;
        for bits in 0..1usize << LOOK {
            let (length, symbol) = table.short[bits];
            let (run, size) = (symbol >> 4, symbol & 15);
            let all = length + size;
            if length > 0 && size > 0 && all as u32 <= LOOK {
                let value = (bits >> (LOOK - all as u32)) & ((1 << size) - 1);
                table.whole[bits] = (extended(value as u32, size.into()) as i16, run, all);
            }
        }
        Some(table)
    }
}

/// The value that `size` bits stand for (T.81, F.12): half of them are negative.
#[inline(always)]
fn extended(bits: u32, size: u32) -> i32 {
    let negative = size > 0 && bits < 1 << (size - 1);
    bits as i32 - if negative { (1 << size) - 1 } else { 0 }
}

/// Entropy-coded bits, without the zeros that are stuffed behind 0xff.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// The next bits, from the top.
    next: u64,
    count: u32,
    /// Zero bits that were made up behind the end or a marker.
    made_up: u32,
}

impl<'a> Bits<'a> {
    fn new(data: &'a [u8]) -> Bits<'a> {
        Bits { data, at: 0, next: 0, count: 0, made_up: 0 }
    }

    /// At least 48 bits.
    #[inline(always)]
    fn fill(&mut self) {
        if self.count >= 48 {
            return;
        }
        if let Some(&eight) = self.data.get(self.at..).and_then(|d| d.first_chunk::<8>()) {
            let word = u64::from_be_bytes(eight);
            let zero_where_ff = !word;
            let some_ff = zero_where_ff.wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080;
            if some_ff == 0 {
                self.next |= word >> self.count;
                let bytes = (63 - self.count) / 8;
                self.at += bytes as usize;
                self.count += bytes * 8;
                return;
            }
        }
        self.fill_slowly();
    }

    #[cold]
    fn fill_slowly(&mut self) {
        while self.count <= 56 {
            let byte = match self.data.get(self.at..).unwrap_or_default() {
                [0xff, 0, ..] => {
                    self.at += 2;
                    0xff
                }
                [] | [0xff, ..] => {
                    self.made_up += 8;
                    0
                }
                [byte, ..] => {
                    self.at += 1;
                    *byte
                }
            };
            // What lies below may hold the next byte already.
            self.next &= !(u64::MAX.checked_shr(self.count).unwrap_or(0));
            self.next |= (byte as u64) << (56 - self.count);
            self.count += 8;
        }
    }

    #[inline(always)]
    fn look(&self) -> usize {
        (self.next >> (64 - LOOK)) as usize
    }

    #[inline(always)]
    fn skip(&mut self, bits: u32) {
        self.next <<= bits;
        self.count -= bits;
    }

    #[inline(always)]
    fn take(&mut self, bits: u32) -> u32 {
        // Shifted twice, since 64 is no shift.
        let taken = (self.next >> 1 >> (63 - bits)) as u32;
        self.skip(bits);
        taken
    }

    #[inline(always)]
    fn symbol(&mut self, table: &Huffman) -> Option<u8> {
        let (length, symbol) = table.short[self.look()];
        if length > 0 {
            self.skip(length.into());
            return Some(symbol);
        }
        let code = (self.next >> 48) as u32;
        let length = (LOOK as usize + 1..17).find(|&l| code < table.limit[l])?;
        self.skip(length as u32);
        let index = (code >> (16 - length)) as i32 + table.offset[length];
        table.symbols.get(usize::try_from(index).ok()?).copied()
    }

    /// Behind the restart marker that has to come here.
    fn restart(&mut self) -> Option<()> {
        if self.made_up > self.count {
            return None;
        }
        // Whole bytes that were taken in already are given back: they lie behind the data, so there are none but made-up ones.
        match self.data.get(self.at..)? {
            [0xff, 0xd0..=0xd7, ..] => {
                *self = Bits { data: self.data, at: self.at + 2, next: 0, count: 0, made_up: 0 };
                Some(())
            }
            _ => None,
        }
    }
}

impl<'a> Jpeg<'a> {
    /// Reads the headers. `None` for what is not decoded here.
    pub fn parse(bytes: &'a [u8]) -> Option<Jpeg<'a>> {
        let mut rest = bytes.strip_prefix(&[0xff, 0xd8])?;
        let mut jpeg = Jpeg {
            width: 0,
            height: 0,
            components: Vec::new(),
            steps: Default::default(),
            tables: Default::default(),
            restart: 0,
            scan: &[],
        };
        loop {
            let (&marker, after) = rest.strip_prefix(&[0xff])?.split_first()?;
            if marker == 0xff {
                rest = &rest[1..];
                continue;
            }
            let length = u16::from_be_bytes(*after.first_chunk()?) as usize;
            let segment = after.get(2..length)?;
            rest = &after[length..];
            match marker {
                0xc0 | 0xc1 => jpeg.frame(segment)?,
                0xc4 => jpeg.huffman(segment)?,
                0xdb => jpeg.quantization(segment)?,
                0xdd => jpeg.restart = u16::from_be_bytes(*segment.first_chunk()?) as usize,
                0xda => {
                    jpeg.scan = rest;
                    return jpeg.scan_header(segment).then_some(jpeg);
                }
                // Adobe's marker with anything but YCbCr.
                0xee if segment.starts_with(b"Adobe") && segment.get(11) != Some(&1) => return None,
                0xe0..=0xef | 0xfe => {}
                _ => return None,
            }
        }
    }

    fn frame(&mut self, segment: &[u8]) -> Option<()> {
        let &[8, h1, h0, w1, w0, count, ref components @ ..] = segment else { return None };
        if !self.components.is_empty() || components.len() != 3 * count as usize {
            return None;
        }
        (self.width, self.height) =
            (u16::from_be_bytes([w1, w0]) as usize, u16::from_be_bytes([h1, h0]) as usize);
        let component = |c: &[u8; 3]| {
            let (across, down) = ((c[1] >> 4) as usize, (c[1] & 15) as usize);
            Component { id: c[0], across, down, steps: c[2] as usize, dc: 0, ac: 0 }
        };
        self.components = components.as_chunks::<3>().0.iter().map(component).collect();
        let sampling: Vec<_> = self.components.iter().map(|c| (c.across, c.down)).collect();
        match &mut self.components[..] {
            // One component is stored block by block, whatever its factors say.
            [gray] => (gray.across, gray.down) = (1, 1),
            [y, ..] if count == 3 => {
                let chroma = sampling[1..] == [(1, 1); 2];
                let luma = [(1, 1), (2, 1), (2, 2)].contains(&sampling[0]);
                // Rows so narrow are not interpolated by libjpeg. Components named R, G and B are no YCbCr.
                if !chroma || !luma || self.width < 8 || y.id == b'R' {
                    return None;
                }
            }
            _ => return None,
        }
        (self.width > 0 && self.height > 0).then_some(())
    }

    fn huffman(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&kind, rest)) = segment.split_first() {
            let counts = rest.first_chunk::<16>()?;
            let total = counts.iter().map(|&n| n as usize).sum::<usize>();
            let symbols = rest[16..].get(..total)?;
            segment = &rest[16 + total..];
            let slot = self.tables.get_mut((kind >> 4) as usize)?.get_mut((kind & 15) as usize)?;
            *slot = Some(Box::new(Huffman::new(counts, symbols)?));
        }
        Some(())
    }

    fn quantization(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&kind, rest)) = segment.split_first() {
            let steps = rest.first_chunk::<64>()?;
            segment = &rest[64..];
            // A high half of 1 announces steps of 16 bits, and fails as an index.
            let slot = self.steps.get_mut(kind as usize)?.get_or_insert_with(|| Box::new([0; 64]));
            steps.iter().zip(ZIGZAG).for_each(|(&q, k)| slot[k as usize] = q.into());
        }
        Some(())
    }

    /// Whether the scan has all components, in order, and all that they need.
    fn scan_header(&mut self, segment: &[u8]) -> bool {
        let [count, rest @ ..] = segment else { return false };
        if *count as usize != self.components.len() || rest.len() != 2 * self.components.len() + 3 {
            return false;
        }
        let (parts, end) = rest.split_at(rest.len() - 3);
        for (component, part) in self.components.iter_mut().zip(parts.as_chunks::<2>().0) {
            (component.dc, component.ac) = ((part[1] >> 4) as usize, (part[1] & 15) as usize);
            let there = |kind: usize, at: usize| self.tables[kind].get(at).is_some_and(Option::is_some);
            let steps = self.steps.get(component.steps).is_some_and(Option::is_some);
            if part[0] != component.id || !there(0, component.dc) || !there(1, component.ac) || !steps {
                return false;
            }
        }
        end == [0, 63, 0]
    }

    /// The pixels of a rectangle; of those outside only the codes are read, and behind its last row nothing. `None` where
    /// the data is damaged.
    ///
    /// # Panics
    /// When the window is not inside the picture.
    pub fn decode(&self, window: Window) -> Option<Picture> {
        let isa = Isa::detect();
        let (mcu_w, mcu_h) = (8 * self.components[0].across, 8 * self.components[0].down);
        let mcus_across = self.width.div_ceil(mcu_w);
        let mcus_down = self.height.div_ceil(mcu_h);
        // One MCU more to each side has all neighbours that interpolation looks at.
        let reach = |from: usize, len: usize, size: usize, most: usize| {
            ((from / size).saturating_sub(1), ((from + len).div_ceil(size) + 1).min(most))
        };
        let (first_x, end_x) = reach(window.left, window.width, mcu_w, mcus_across);
        let (first_y, end_y) = reach(window.top, window.height, mcu_h, mcus_down);
        let mut planes: Vec<Plane> =
            self.components.iter().map(|c| Plane::new(c, [first_x, end_x, first_y, end_y])).collect();
        let parts: Vec<_> = self.components.iter().map(|c| self.part(c)).collect::<Option<_>>()?;

        let mut bits = Bits::new(self.scan);
        let mut dc = [0i32; 3];
        let mut block = [0i16; 64];
        for mcu in 0..end_y * mcus_across {
            if self.restart > 0 && mcu > 0 && mcu % self.restart == 0 {
                bits.restart()?;
                dc = [0; 3];
            }
            let (my, mx) = (mcu / mcus_across, mcu % mcus_across);
            let wanted = my >= first_y && (first_x..end_x).contains(&mx);
            for (k, component) in self.components.iter().enumerate() {
                let (dc_table, ac_table, steps) = parts[k];
                for b in 0..component.across * component.down {
                    let last = read_block(&mut bits, dc_table, ac_table, &mut dc[k], wanted, &mut block)?;
                    if !wanted {
                        continue;
                    }
                    let plane = &mut planes[k];
                    let x = (mx - first_x) * component.across + b % component.across;
                    let y = (my - first_y) * component.down + b / component.across;
                    let out = &mut plane.data[8 * (y * plane.stride + x)..];
                    if last == 0 {
                        // Of a block of one value, both passes keep all of it but the rounding of the second.
                        let value = (block[0] as i32 * steps[0] as i32 + 4) >> 3;
                        let value = (value + 128).clamp(0, 255) as u8;
                        out.chunks_mut(plane.stride).take(8).for_each(|row| row[..8].fill(value));
                    } else {
                        inverse_dct(isa, &block, steps, out, plane.stride);
                    }
                    if last > 0 {
                        block = [0; 64];
                    }
                }
            }
        }
        // More bits were used than there were.
        if bits.made_up > bits.count {
            return None;
        }
        Some(self.assemble(isa, window, [first_x * mcu_w, first_y * mcu_h], &planes))
    }

    fn part(&self, c: &Component) -> Option<(&Huffman, &Huffman, &[u16; 64])> {
        Some((
            self.tables[0].get(c.dc)?.as_deref()?,
            self.tables[1].get(c.ac)?.as_deref()?,
            self.steps.get(c.steps)?.as_deref()?,
        ))
    }

    /// Brings the planes, which begin at pixel `origin`, to one size and colour.
    fn assemble(&self, isa: Isa, window: Window, origin: [usize; 2], planes: &[Plane]) -> Picture {
        let Window { top, left, height, width } = window;
        let [x0, y0] = origin;
        let luma = |y: usize| &planes[0].data[(y - y0) * planes[0].stride + left - x0..][..width];
        let chroma = &planes[1..];
        if chroma.is_empty() {
            let data = (top..top + height).flat_map(|y| luma(y).iter().copied()).collect();
            return Picture { width, height, channels: 1, data };
        }
        let (across, down) = (self.components[0].across, self.components[0].down);
        // Chroma samples in the file, of the window, and one to each side.
        let (all_w, all_h) = (self.width.div_ceil(across), self.height.div_ceil(down));
        let (first, end) = (left / across, (left + width).div_ceil(across));
        let mut sums = vec![0u16; end - first + 2];
        let mut rows = [vec![0u8; 2 * (end - first)], vec![0u8; 2 * (end - first)]];
        let mut data = vec![0; width * height * 3];
        for (y, out) in (top..).zip(data.chunks_exact_mut(width * 3)) {
            for (plane, row) in chroma.iter().zip(&mut rows) {
                let line = |y: usize| &plane.data[(y - y0 / down) * plane.stride..][..plane.stride];
                let at = |x: usize| x - x0 / across;
                if across == 1 {
                    row[..width].copy_from_slice(&line(y)[at(left)..][..width]);
                    continue;
                }
                // The neighbours of the samples at the border are these themselves.
                let (from, to) = (first.saturating_sub(1), (end + 1).min(all_w));
                let inner = if first == 0 { 1.. } else { 0.. };
                let sums_inner = &mut sums[inner][..to - from];
                let near = y / down;
                let far = match (down, y % 2) {
                    (1, _) => near,
                    (_, 0) => near.saturating_sub(1),
                    _ => (near + 1).min(all_h - 1),
                };
                between_rows(isa, &line(near)[at(from)..at(to)], &line(far)[at(from)..at(to)], sums_inner);
                if first == 0 {
                    sums[0] = sums[1];
                }
                if end == all_w {
                    let last = sums.len() - 1;
                    sums[last] = sums[last - 1];
                }
                // With one row only the sums are four times the samples, which changes the rounding bits alone.
                let round = if down == 1 { [4, 8] } else { [8, 7] };
                double_columns(isa, &sums, 4, round, row);
            }
            let skip = if across == 1 { 0 } else { left % across };
            let [cb, cr] = &rows;
            ycc_to_rgb(isa, luma(y), &cb[skip..][..width], &cr[skip..][..width], out);
        }
        Picture { width, height, channels: 3, data }
    }
}

/// The samples of a component in the MCUs of a rectangle.
struct Plane {
    stride: usize,
    data: Vec<u8>,
}

impl Plane {
    fn new(c: &Component, [first_x, end_x, first_y, end_y]: [usize; 4]) -> Plane {
        let stride = 8 * c.across * (end_x - first_x);
        Plane { stride, data: vec![0; stride * 8 * c.down * (end_y - first_y)] }
    }
}

/// Reads the codes of a block; the last coefficient that is not 0. Unless `wanted`, only the value that the next block builds
/// on is kept. `block` has to be 0 but for its first value.
#[inline(always)]
fn read_block(
    bits: &mut Bits,
    dc_table: &Huffman,
    ac_table: &Huffman,
    dc: &mut i32,
    wanted: bool,
    block: &mut [i16; 64],
) -> Option<usize> {
    bits.fill();
    let size = bits.symbol(dc_table)? as u32;
    if size > 15 {
        return None;
    }
    *dc = dc.wrapping_add(extended(bits.take(size), size));
    block[0] = *dc as i16;
    let (mut k, mut last) = (1, 0);
    while k < 64 {
        bits.fill();
        let (value, run, length) = ac_table.whole[bits.look()];
        let (value, run) = match length {
            0 => {
                let symbol = bits.symbol(ac_table)?;
                let (run, size) = (symbol >> 4, (symbol & 15) as u32);
                match (run, size) {
                    (15, 0) => {
                        k += 16;
                        continue;
                    }
                    (_, 0) => break,
                    _ => (extended(bits.take(size), size) as i16, run),
                }
            }
            _ => {
                bits.skip(length.into());
                (value, run)
            }
        };
        k += run as usize;
        let place = *ZIGZAG.get(k)? as usize;
        if wanted {
            block[place] = value;
            last = k;
        }
        k += 1;
    }
    // Far more bits than were there: no need to go on through nothing.
    (bits.made_up <= bits.count + 64).then_some(last)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    fn fixture(name: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/pictures/val/0_jpeg");
        std::fs::read(folder.join(name)).unwrap()
    }

    const OURS: [&str; 5] = ["420.jpg", "422.jpg", "444.JPEG", "gray.jpg", "restart.jpg"];

    #[test]
    fn a_rectangle_is_that_of_the_whole_picture() {
        for name in OURS {
            let bytes = fixture(name);
            let jpeg = Jpeg::parse(&bytes).unwrap();
            let (height, width) = (jpeg.height, jpeg.width);
            let whole = jpeg.decode(Window { top: 0, left: 0, height, width }).unwrap();
            for (top, left, h, w) in [
                (0, 0, 1, 1),
                (5, 7, 20, 30),
                (height - 1, width - 1, 1, 1),
                (17, 0, 16, width),
                (0, 33, height, 2),
            ] {
                let part = jpeg.decode(Window { top, left, height: h, width: w }).unwrap();
                assert!(part == whole.cut(top as isize, left as isize, h, w), "{name}: {top} {left} {h} {w}");
            }
        }
    }

    #[test]
    fn other_kinds_are_left_to_others() {
        assert!(Jpeg::parse(&fixture("progressive.jpg")).is_none());
        assert!(Jpeg::parse(b"").is_none() && Jpeg::parse(b"\xff\xd8").is_none());
        // CMYK, Adobe's RGB, arithmetic coding, 12 bits.
        let bytes = fixture("420.jpg");
        let sof = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        for (at, value) in [(1, 0xc9), (4, 12), (9, 4), (11, 0x41), (10, b'R')] {
            let mut other = bytes.clone();
            other[sof + at] = value;
            assert!(Jpeg::parse(&other).is_none(), "{at}");
        }
        let adobe = [&bytes[..2], b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00", &bytes[2..]].concat();
        assert!(Jpeg::parse(&adobe).is_none());
    }

    /// Data that ends too early is not a picture; whatever else is wrong, there is an answer.
    #[test]
    fn damaged_data_never_panics() {
        for name in OURS {
            let bytes = fixture(name);
            let start = bytes.windows(2).position(|w| w == [0xff, 0xda]).unwrap();
            for i in 0..bytes.len() {
                for flip in [1, 0x80, 0xff] {
                    let mut bad = bytes.clone();
                    bad[i] ^= flip;
                    if let Some(jpeg) = Jpeg::parse(&bad)
                        && jpeg.width * jpeg.height < 1 << 16
                    {
                        let _ =
                            jpeg.decode(Window { top: 0, left: 0, height: jpeg.height, width: jpeg.width });
                    }
                }
                if let Some(jpeg) = Jpeg::parse(&bytes[..i]) {
                    let whole = Window { top: 0, left: 0, height: jpeg.height, width: jpeg.width };
                    assert!(
                        i > start && (i > bytes.len() - 4 || jpeg.decode(whole).is_none()),
                        "{name}: {i}"
                    );
                }
            }
        }
    }
}
