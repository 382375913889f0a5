use onnx_qat::{Model, exec, passes, tensor::Tensor};
use std::io::Write;
use std::sync::Arc;
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let a: Vec<String> = std::env::args().collect();
    let (path, input, out) = (&a[1], &a[2], &a[3]);
    let batch: usize = a[4].parse()?;
    let mode = a.get(5).map_or("fuse", |s| s.as_str());
    let mut m = Model::load(path)?;
    let dims: Vec<usize> = std::fs::read_to_string(format!("{input}.shape"))?
        .split_whitespace()
        .map(|s| s.parse().unwrap())
        .collect();
    let raw = std::fs::read(input)?;
    let x: Vec<f32> = raw.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let per: usize = dims[1..].iter().product();
    let names: Vec<String> = m
        .graph
        .nodes()
        .into_iter()
        .filter(|&id| {
            m.graph.node(id).is::<onnx_qat::ops::QuantizeLinear>().is_some()
                && m.graph.constant(m.graph.node(id).ins[0].unwrap()).is_none()
        })
        .map(|id| m.graph.value(id.into()).name.clone())
        .collect();
    if mode != "float" {
        let report = passes::Pipeline::new().then(passes::FuseQdq).run(&mut m.graph)?;
        let mut done = std::collections::BTreeMap::new();
        for l in &report.lines {
            match &l.verdict {
                passes::Verdict::Done(h) => *done.entry(h.clone()).or_insert(0) += 1,
                _ => println!("{l}"),
            }
        }
        println!("{done:?}");
    }
    let outputs: Vec<String> = m.graph.outputs().iter().map(|o| o.name.clone()).collect();
    let mut all = outputs.clone();
    if mode == "inside" {
        for n in &names {
            if !all.contains(n)
                && let Some(v) = m.graph.find(n)
            {
                m.graph.add_output(n, v);
                all.push(n.clone());
            }
        }
    }
    let inp = m.graph.node(m.graph.inputs()[0]).name.clone();
    m.graph.bind(|_, axis| Some(if axis == 0 { batch } else { dims[axis] }))?;
    let p = Arc::new(exec::Program::compile(&m.graph)?);
    let mut k = exec::Machine::new(p);
    let mut files: Vec<std::fs::File> =
        (0..all.len()).map(|i| std::fs::File::create(format!("{out}.{i}")).unwrap()).collect();
    let t0 = std::time::Instant::now();
    let mut list = String::new();
    if mode == "profile" {
        k.start_profile();
    }
    let n = dims[0] / batch;
    for b in 0..n {
        let mut shape = dims.clone();
        shape[0] = batch;
        k.set_input(&inp, &Tensor::new(&shape, x[b * batch * per..(b + 1) * batch * per].to_vec()))?;
        k.run()?;
        for (i, name) in all.iter().enumerate() {
            let t = k.output(name)?;
            files[i].write_all(t.bytes())?;
            if b == 0 {
                list += &format!(
                    "{name}\t{}\t{}\n",
                    t.dtype(),
                    t.shape().iter().map(|d| d.to_string()).collect::<Vec<_>>().join(",")
                );
            }
        }
    }
    println!("{:.3} s for {} images", t0.elapsed().as_secs_f64(), n * batch);
    if let Some(p) = k.take_profile() {
        let mut by = std::collections::BTreeMap::<String, f64>::new();
        for (op, _, t) in &p.steps {
            *by.entry(op.clone()).or_default() += t.as_secs_f64();
        }
        let mut v: Vec<_> = by.into_iter().collect();
        v.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (o, t) in v.iter().take(14) {
            println!("{o:30} {t:.4}");
        }
    }
    std::fs::write(format!("{out}.list"), list)?;
    Ok(())
}
