//! One picture of 8 bits: decoded, cut, resized, mirrored, recoloured.

use crate::{Jitter, Rng};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use kernels::resample::{Filter, Pixels, Window, resample};
use std::io::Cursor;

/// Pixels of the largest picture that is decoded, as in Pillow before it warns of a decompression bomb.
const MOST_PIXELS: u64 = 89_478_485;

/// Rows of pixels of one gray value, or of red, green and blue.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Picture {
    pub width: usize,
    pub height: usize,
    /// 1 or 3.
    pub channels: usize,
    pub data: Vec<u8>,
}

fn check_size(width: u64, height: u64) -> Result<(), String> {
    if width * height > MOST_PIXELS {
        return Err(format!("{width}x{height} pixels are more than the {MOST_PIXELS} that are decoded"));
    }
    if width == 0 || height == 0 {
        return Err("the picture has no pixels".into());
    }
    Ok(())
}

impl Picture {
    /// Decodes JPEG, PNG, BMP or WebP, told by the first bytes. Transparency is dropped, 16 bits become 8, and the
    /// orientation that a camera noted is not looked at: as Pillow's `convert("RGB")`.
    pub fn decode(bytes: &[u8]) -> Result<Picture, String> {
        let unknown = "not a picture that is read here: JPEG, PNG, BMP and WebP are";
        let mut reader =
            ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
        let known = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP];
        if !reader.format().is_some_and(|f| known.contains(&f)) {
            return Err(if bytes.is_empty() { "the file is empty".into() } else { unknown.into() });
        }
        let mut limits = Limits::default();
        // Sixteen bits in four channels, and as much again for the decoder.
        limits.max_alloc = Some(MOST_PIXELS * 16);
        reader.limits(limits);
        let decoder = reader.into_decoder().map_err(|e| e.to_string())?;
        let (width, height) = decoder.dimensions();
        check_size(width.into(), height.into())?;
        let image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
        let (channels, data) = match image {
            DynamicImage::ImageLuma8(i) => (1, i.into_raw()),
            DynamicImage::ImageLumaA8(i) => (1, i.into_raw().chunks_exact(2).map(|p| p[0]).collect()),
            DynamicImage::ImageLuma16(i) => (1, i.into_raw().into_iter().map(|v| (v >> 8) as u8).collect()),
            DynamicImage::ImageRgb8(i) => (3, i.into_raw()),
            DynamicImage::ImageRgba8(i) => {
                (3, i.into_raw().as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect())
            }
            DynamicImage::ImageRgb16(i) => (3, i.into_raw().into_iter().map(|v| (v >> 8) as u8).collect()),
            other => (3, other.to_rgb8().into_raw()),
        };
        Ok(Picture { width: width as usize, height: height as usize, channels, data })
    }

    /// Gray values in the weights of ITU-R 601, in the fixed point of Pillow.
    pub fn gray(self) -> Picture {
        match self.channels {
            1 => self,
            _ => Picture { channels: 1, data: self.luma().collect(), ..self },
        }
    }

    fn luma(&self) -> impl Iterator<Item = u8> + '_ {
        let (colored, _) = self.data.as_chunks::<3>();
        colored.iter().map(|p| {
            let [r, g, b] = p.map(u32::from);
            ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
        })
    }

    /// The rectangle `from`, which lies inside, resized to `height` and `width`, and of the result the rectangle `window`.
    pub fn resized(
        &self,
        from: Window,
        height: usize,
        width: usize,
        window: Window,
        filter: Filter,
    ) -> Picture {
        let stride = self.width * self.channels;
        let pixels = Pixels {
            data: &self.data[from.top * stride + from.left * self.channels..],
            stride,
            width: from.width,
            height: from.height,
            channels: self.channels,
        };
        let data = resample(pixels, height, width, window, filter);
        Picture { width: window.width, height: window.height, channels: self.channels, data }
    }

    /// A cut that begins `top` rows and `left` columns from the corner, either of which may lie outside: black there.
    pub fn cut(&self, top: isize, left: isize, height: usize, width: usize) -> Picture {
        let c = self.channels;
        let mut data = vec![0; height * width * c];
        for (y, row) in data.chunks_exact_mut(width * c).enumerate() {
            let Some(from) = top.checked_add_unsigned(y).and_then(|y| usize::try_from(y).ok()) else {
                continue;
            };
            if from >= self.height {
                break;
            }
            let skip = left.min(0).unsigned_abs().min(width);
            let start = left.max(0).unsigned_abs().min(self.width);
            let count = (width - skip).min(self.width - start);
            row[skip * c..][..count * c]
                .copy_from_slice(&self.data[(from * self.width + start) * c..][..count * c]);
        }
        Picture { width, height, channels: c, data }
    }

    /// Left to right.
    pub fn mirror(&mut self) {
        for row in self.data.chunks_exact_mut(self.width * self.channels) {
            match self.channels {
                3 => row.as_chunks_mut::<3>().0.reverse(),
                _ => row.reverse(),
            }
        }
    }

    /// Brightness, contrast and saturation by random factors, in random order: as torchvision's `ColorJitter`, each step
    /// rounding down to 8 bits as Pillow's `ImageEnhance`.
    pub fn jitter(&mut self, jitter: Jitter, rng: &mut Rng) {
        let mut order = [0, 1, 2];
        rng.shuffle(&mut order);
        for step in order {
            let most = [jitter.brightness, jitter.contrast, jitter.saturation][step] as f64;
            if most == 0.0 {
                continue;
            }
            let factor = rng.between(1.0 - most, 1.0 + most) as f32;
            match (step, self.channels) {
                (0, _) => self.data.iter_mut().for_each(|v| *v = blend(0, *v, factor)),
                (1, _) => {
                    let gray = self.mean_luma();
                    self.data.iter_mut().for_each(|v| *v = blend(gray, *v, factor));
                }
                (_, 3) => {
                    let gray: Vec<u8> = self.luma().collect();
                    let (pixels, _) = self.data.as_chunks_mut::<3>();
                    pixels.iter_mut().zip(gray).for_each(|(p, g)| *p = p.map(|v| blend(g, v, factor)));
                }
                _ => {}
            }
        }
    }

    fn mean_luma(&self) -> u8 {
        let total: u64 = match self.channels {
            3 => self.luma().map(u64::from).sum(),
            _ => self.data.iter().map(|&v| v as u64).sum(),
        };
        (total as f64 / (self.width * self.height) as f64 + 0.5) as u8
    }
}

/// `from` where the factor is 0, `to` where it is 1, and beyond.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    (from as f32 + factor * (to as f32 - from as f32)) as u8
}
