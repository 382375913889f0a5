//! Picture files and resizing against what Pillow recorded in `fixtures/pictures`.

#![allow(clippy::unwrap_used)]

use kernels::resample::{Filter, Pixels, Window, resample};
use onnx_qat_data::{
    Batches, Dataset, InputSpec, Last, Loader, MaxBroken, Order, Preprocess, Role, Source, Steps, Values,
    View, npz,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tensor::{DType, Tensor};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/pictures")
}

fn expected() -> BTreeMap<String, Tensor> {
    npz::read(fixture().join("expected.npz")).unwrap()
}

/// Largest difference of two pictures, in steps of 255.
fn distance(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

fn steps(toml: &str) -> Preprocess {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("steps.toml");
    fs::write(&path, toml).unwrap();
    Steps::read(path.to_str().unwrap()).and_then(Steps::build).unwrap_or_else(|e| panic!("{e}"))
}

fn open(spec: &str, role: Role, dims: &[usize], preprocess: &Preprocess) -> Result<Dataset, String> {
    let dims: Vec<Option<usize>> = dims.iter().map(|&d| (d > 0).then_some(d)).collect();
    let input = InputSpec::float("x", &[&[None], &dims[..]].concat());
    Source::parse(spec, role).and_then(|s| s.open(&[input], preprocess)).map_err(|e| e.to_string())
}

/// One sample of 8-bit values.
fn bytes(data: &Dataset, sample: usize) -> Vec<u8> {
    let mut out = vec![0.0; data.sample_shape(0).iter().product()];
    data.read_f32(0, &[sample], &mut out).unwrap();
    out.into_iter().map(|v| v as u8).collect()
}

#[test]
fn resizing_is_pillows() {
    let arrays = expected();
    let source = &arrays["source"];
    let &[height, width, channels] = source.shape() else { panic!("{source:?}") };
    let stride = width * channels;
    let filter = |name: &str| if name == "bilinear" { Filter::Bilinear } else { Filter::Bicubic };
    let mut checked = 0;
    for (name, array) in &arrays {
        let parts: Vec<&str> = name.split('/').collect();
        let &[h, w, _] = array.shape() else { continue };
        let whole = Window { top: 0, left: 0, height: h, width: w };
        let (data, height, width, by) = match parts[..] {
            ["resize", by, _] => (&source.bytes()[..], height, width, by),
            ["box", by, place] => {
                let n: Vec<usize> = place.split(',').map(|n| n.parse().unwrap()).collect();
                (&source.bytes()[n[0] * stride + n[1] * channels..], n[2], n[3], by)
            }
            _ => continue,
        };
        let ours = resample(Pixels { data, stride, width, height, channels }, h, w, whole, filter(by));
        assert_eq!(distance(&ours, array.bytes()), 0, "{name}");
        checked += 1;
    }
    assert_eq!(checked, 18);
}

/// Decoders of JPEG are free in how they round the inverse transform and interpolate chroma (ITU-T T.81, JFIF), and that of
/// the `image` crate is not libjpeg, which Pillow has. All other formats are exact.
fn rounding(file: &str, color: &str) -> u8 {
    match (file.contains("_jpeg/"), color) {
        (true, "gray") => 1,
        (true, _) => 4,
        _ => 0,
    }
}

#[test]
fn every_format_is_decoded_as_pillow_does() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("one.txt");
    for (name, array) in expected() {
        let Some((color, file)) = name.split_once('/') else { continue };
        let dims = match (color, array.shape()) {
            ("rgb", &[h, w, _]) => [3, h, w],
            ("gray", &[h, w]) => [1, h, w],
            _ => continue,
        };
        fs::write(&list, format!("{} 0", fixture().join("val").join(file).display())).unwrap();
        let data = open(list.to_str().unwrap(), Role::Eval, &dims, &Preprocess::default()).unwrap();
        let planes = bytes(&data, 0);
        let positions = dims[1] * dims[2];
        let pixels: Vec<u8> = (0..positions)
            .flat_map(|p| (0..dims[0]).map(move |c| c * positions + p))
            .map(|i| planes[i])
            .collect();
        let found = distance(&pixels, array.bytes());
        println!("{name}: {found}");
        assert!(found <= rounding(file, color), "{name}: {found}");
    }
}

#[test]
fn evaluation_is_deterministic_and_as_recorded() {
    let preprocess = steps("resize = 40\ncrop = 32\nrandom_crop = 'resized'\nflip = 0.5\njitter = 0.4");
    let root = fixture();
    let arrays = expected();
    let folder = open(root.join("val").to_str().unwrap(), Role::Eval, &[3, 32, 32], &preprocess).unwrap();
    let list = open(root.to_str().unwrap(), Role::Eval, &[32, 32, 3], &preprocess).unwrap();
    assert_eq!((folder.len(), list.len()), (12, 12));
    assert_eq!(
        (folder.labels(), list.labels()),
        (Some(&[0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1][..]), folder.labels())
    );
    for line in fs::read_to_string(root.join("val_list.txt")).unwrap().lines().enumerate() {
        let (sample, name) = (line.0, line.1.split_once(' ').unwrap().0.strip_prefix("val/").unwrap());
        let found = distance(&bytes(&list, sample), arrays[&format!("eval/{name}")].bytes());
        println!("{name}: {found}");
        assert!(found <= rounding(name, "rgb"), "{name}: {found}");
    }
}

fn load(data: &Dataset, view: View) -> Vec<f32> {
    let order = Order::Shuffled { seed: 1, epoch: 0 };
    let batches = Batches::new(data.len(), 5, order, Last::Keep).unwrap();
    let values = |b: Result<_, _>| {
        let batch: onnx_qat_data::Batch = b.unwrap();
        let Values::F32(v) = batch.inputs.into_iter().next().unwrap() else { panic!("floats") };
        v
    };
    Loader::new(data, batches, view).flat_map(values).collect()
}

#[test]
fn augmentation_does_not_depend_on_workers() {
    let root = fixture().join("val").display().to_string();
    for toml in [
        "preset = 'imagenet'\njitter = '0.4,0.3,0.2'",
        "preset = 'imagenet-tf'\nrandom_crop = 'resized:0.5'\nfilter = 'bicubic'",
        "resize = '32x32'\nrandom_crop = 4\nflip = 0.5\nscale = '1/255'\ncolor = 'bgr'",
        "resize = '32x32'\ncolor = 'gray'\njitter = 0.5",
    ] {
        let of = |workers, view| {
            let dims = [if toml.contains("gray") { 1 } else { 3 }, 32, 32];
            load(&open(&root, Role::Train, &dims, &steps(toml)).unwrap().with_workers(workers), view)
        };
        let (first, second) = (View::Augmented { seed: 7, epoch: 0 }, View::Augmented { seed: 7, epoch: 1 });
        assert!(of(0, first) == of(3, first), "{toml}");
        assert!(of(0, first) != of(0, second) && of(0, first) != of(0, View::Plain), "{toml}");
        assert!(of(2, View::Plain) == of(0, View::Plain));
    }
}

/// Random cuts cover the share of the area that was asked for, and every place.
#[test]
fn random_cuts_are_where_they_should_be() {
    let ramp: Vec<u8> = (0..64 * 64).map(|i| (i / 64 * 4) as u8).collect();
    let x = Tensor::new(&[1, 64, 64], ramp);
    let input = [InputSpec::float("x", &[None, Some(1), Some(16), Some(16)])];
    let preprocess = steps("crop = 16\nrandom_crop = 'resized:0.25'");
    let data = Dataset::from_arrays(&input, vec![x.clone()], None, &preprocess).unwrap();
    let epochs = 300;
    let rows: Vec<Vec<f32>> =
        (0..epochs).map(|epoch| load(&data, View::Augmented { seed: 1, epoch })).collect();
    // The picture grows by 4 a row, so the range of values tells the height of the cut.
    let heights: Vec<f32> = rows.iter().map(|r| (r[255] - r[0]) / 4.0 * 16.0 / 15.0).collect();
    assert!(heights.iter().all(|h| (26.0..=66.0).contains(h)), "{heights:?}");
    let mean = heights.iter().sum::<f32>() / epochs as f32;
    assert!((45.0..55.0).contains(&mean), "{mean}");

    let preprocess = steps("random_crop = 2\nflip = 0.5");
    let input = [InputSpec::float("x", &[None, Some(1), Some(64), Some(64)])];
    let data = Dataset::from_arrays(&input, vec![x], None, &preprocess).unwrap();
    let mut tops: Vec<i32> = (0..100)
        .map(|epoch| load(&data, View::Augmented { seed: 1, epoch })[64 * 30 + 32] as i32 / 4 - 30)
        .collect();
    tops.sort();
    tops.dedup();
    assert_eq!(tops, [-2, -1, 0, 1, 2]);
}

#[test]
fn broken_pictures_are_named_and_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let class = dir.path().join("a");
    fs::create_dir(&class).unwrap();
    let good = fs::read(fixture().join("val/0_jpeg/420.jpg")).unwrap();
    for i in 0..8 {
        fs::write(class.join(format!("{i}.jpg")), &good).unwrap();
    }
    fs::write(class.join("8.jpg"), "no picture").unwrap();
    fs::write(class.join("9.jpg"), "").unwrap();
    let root = dir.path().display().to_string();
    let preprocess = steps("resize = '32x32'");
    let data = open(&root, Role::Train, &[3, 32, 32], &preprocess).unwrap();
    let data = data.with_max_broken(MaxBroken::Samples(2)).with_workers(2);
    assert_eq!(load(&data, View::Plain).len(), 8 * 3 * 32 * 32);
    let broken = data.broken();
    assert!(
        broken[0].0 == 8 && broken[0].1.contains("a/8.jpg: not a picture that is read here"),
        "{broken:?}"
    );
    assert!(broken[1].1.contains("a/9.jpg: the file is empty"), "{broken:?}");

    let strict = open(&root, Role::Train, &[3, 32, 32], &preprocess).unwrap();
    let batches = Batches::new(10, 5, Order::Stored, Last::Keep).unwrap();
    let e = Loader::new(&strict, batches, View::Plain).find_map(Result::err).unwrap().to_string();
    assert!(e.contains("2 of 10 samples cannot be used, 0 are allowed") && e.contains("8.jpg"), "{e}");
}

/// Whatever is cut off or flipped, the answer is a picture or an error.
#[test]
fn damaged_pictures_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.jpg");
    let list = dir.path().join("list.txt");
    fs::write(&list, "x.jpg 0").unwrap();
    let preprocess = steps("resize = '8x8'");
    for name in [
        "0_jpeg/420.jpg",
        "0_jpeg/progressive.jpg",
        "1_other/palette.png",
        "1_other/lossless.webp",
        "1_other/rgb.bmp",
    ] {
        let good = fs::read(fixture().join("val").join(name)).unwrap();
        for i in (0..good.len()).step_by(good.len() / 60 + 1) {
            let mut flipped = good.clone();
            flipped[i] ^= 0x55;
            for bad in [&good[..i], &flipped] {
                fs::write(&path, bad).unwrap();
                let data = open(list.to_str().unwrap(), Role::Eval, &[3, 8, 8], &preprocess).unwrap();
                let mut out = [0.0; 192];
                if let Err(e) = data.read_f32(0, &[0], &mut out) {
                    assert!(e.to_string().contains("x.jpg: "), "{e}");
                }
            }
        }
    }
}

/// A header that promises more pixels than a picture may have is refused before anything is allocated.
#[test]
fn giant_pictures_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut png = fs::read(fixture().join("val/1_other/rgb.png")).unwrap();
    png[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    fs::write(dir.path().join("bomb.png"), png).unwrap();
    let data =
        open(&dir.path().display().to_string(), Role::Eval, &[3, 8, 8], &steps("resize = '8x8'")).unwrap();
    let e = data.read_f32(0, &[0], &mut [0.0; 192]).unwrap_err().to_string();
    assert!(e.contains("bomb.png") && e.contains("65536x65536 pixels are more than"), "{e}");
}

/// Of PNG (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ b as u32, |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    })
}

#[test]
fn what_does_not_fit_is_told() {
    let root = fixture().join("val").display().to_string();
    let told = |dims: &[usize], toml: &str| {
        let data = open(&root, Role::Eval, dims, &steps(toml));
        data.and_then(|d| d.read_f32(0, &[0], &mut [0.0; 3 * 8 * 8]).map_err(|e| e.to_string())).unwrap_err()
    };
    let e = told(&[3, 8, 8], "");
    assert!(
        e.contains("420.jpg: the picture has 47x63 pixels") && e.contains("add --preprocess imagenet"),
        "{e}"
    );
    assert!(told(&[3, 0, 0], "resize = 40").contains("leaves height and width open; give --crop"), "{e}");
    let e = told(&[3, 8, 8], "crop = 16");
    assert!(e.contains("[N, 3, 16, 16] (pictures)") && e.contains("takes [N, 3, 8, 8]"), "{e}");
    assert!(told(&[1, 8, 8], "color = 'rgb'").contains("choose --color"));
    assert!(told(&[8], "").contains("(pictures)"));
    let floats = Dataset::from_arrays(
        &[InputSpec::float("x", &[None, Some(3), Some(8), Some(8)])],
        vec![Tensor::zeros(DType::F32, &[1, 3, 8, 8])],
        None,
        &steps("flip = 0.5"),
    );
    assert!(floats.unwrap_err().to_string().contains("are for pictures, uint8 arrays"));
    for (toml, says) in [
        ("preset = 'imagenett'", "preset 'imagenett' is unknown; use imagenet, imagenet-tf"),
        ("flipp = 1", "unknown field `flipp`"),
        ("resize = '0x8'", "resize '0x8' is not understood"),
        ("crop = -1", "size '-1' is not understood"),
        ("jitter = 'a'", "jitter 'a'"),
        ("random_crop = 'resized:2'", "random crop 'resized:2'"),
        ("color = 'cmyk'", "use rgb, bgr or gray"),
        ("filter = 'lanczos'", "use bilinear or bicubic"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.toml");
        fs::write(&path, toml).unwrap();
        let e = Steps::read(path.to_str().unwrap()).and_then(Steps::build).unwrap_err().to_string();
        assert!(e.contains(says), "{toml}: {e}");
    }
}
