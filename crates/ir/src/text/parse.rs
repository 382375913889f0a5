//! Text to graph.

use crate::{Attr, Attrs, Dim, Graph, Opaque, Parse, Registry, Role, Type, ValueId};
use std::collections::BTreeMap;
use tensor::{DType, Tensor};

/// Where and why a text is not a graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct TextError {
    /// Line, from 1.
    pub line: usize,
    /// A sentence on what was expected and found.
    pub what: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Number(String),
    Mark(char),
    Arrow,
    Comment(String),
    End,
}

/// Reads the text of a graph; operators are found in `registry`, in their form at opset 17 where forms differ.
///
/// # Errors
/// When the text is not well formed, a name is unknown, or an operator refuses its attributes or operands.
pub fn parse(text: &str, registry: &dyn Registry) -> Result<Graph, TextError> {
    let tokens = tokens(text)?;
    let mut reader = Reader { tokens, at: 0, registry, graph: Graph::default(), names: BTreeMap::new() };
    reader.graph()?;
    Ok(reader.graph)
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, TextError> {
    let mut tokens = Vec::new();
    for (line, content) in text.lines().enumerate() {
        let line = line + 1;
        let mut rest = content.trim_start();
        while let Some(c) = rest.chars().next() {
            let word = |c: char| c.is_ascii_alphanumeric() || "_.-/:@+".contains(c);
            let len = if c == '#' {
                tokens.push((line, Token::Comment(rest[1..].trim().to_string())));
                rest.len()
            } else if c == '"' {
                let end = closing(rest).ok_or(TextError { line, what: "a string is not closed".into() })?;
                let inner = rest[1..end].replace("\\\"", "\"").replace("\\\\", "\\");
                tokens.push((line, Token::Quoted(inner)));
                end + 1
            } else if rest.starts_with("=>") {
                tokens.push((line, Token::Arrow));
                2
            } else if c.is_ascii_digit() || c == '-' {
                let len = rest.find(|c| !word(c)).unwrap_or(rest.len());
                tokens.push((line, Token::Number(rest[..len].to_string())));
                len
            } else if c.is_ascii_alphabetic() || c == '_' {
                let len = rest.find(|c| !word(c)).unwrap_or(rest.len());
                tokens.push((line, Token::Word(rest[..len].to_string())));
                len
            } else {
                tokens.push((line, Token::Mark(c)));
                c.len_utf8()
            };
            rest = rest[len..].trim_start();
        }
    }
    tokens.push((text.lines().count().max(1), Token::End));
    Ok(tokens)
}

/// Position of the quote that closes the string with which `s` begins.
fn closing(s: &str) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in s.char_indices().skip(1) {
        match c {
            '"' if !escaped => return Some(i),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}

struct Reader<'r> {
    tokens: Vec<(usize, Token)>,
    at: usize,
    registry: &'r dyn Registry,
    graph: Graph,
    names: BTreeMap<String, ValueId>,
}

impl Reader<'_> {
    fn error<T>(&self, what: impl Into<String>) -> Result<T, TextError> {
        Err(TextError { line: self.tokens[self.at.min(self.tokens.len() - 1)].0, what: what.into() })
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    /// Skips comments, then consumes `mark` if it is next.
    fn eat(&mut self, mark: char) -> bool {
        while matches!(self.peek(), Token::Comment(_)) {
            self.at += 1;
        }
        let here = *self.peek() == Token::Mark(mark);
        if here {
            self.at += 1;
        }
        here
    }

    fn expect(&mut self, mark: char) -> Result<(), TextError> {
        if self.eat(mark) {
            Ok(())
        } else {
            self.error(format!("expected '{mark}', found {:?}", self.peek()))
        }
    }

    fn name(&mut self) -> Result<String, TextError> {
        match self.peek().clone() {
            Token::Word(s) | Token::Quoted(s) => {
                self.at += 1;
                Ok(s)
            }
            other => self.error(format!("expected a name, found {other:?}")),
        }
    }

    fn comment(&mut self) -> Option<String> {
        let Token::Comment(c) = self.peek() else { return None };
        let c = c.clone();
        self.at += 1;
        Some(c)
    }

    /// A comment behind what was read last, on its line.
    fn trailing_comment(&mut self) -> Option<String> {
        let line = |at: usize| self.tokens.get(at).map(|t| t.0);
        if self.at > 0 && line(self.at - 1) == line(self.at) { self.comment() } else { None }
    }

    fn graph(&mut self) -> Result<(), TextError> {
        while self.comment().is_some() {}
        let name = self.name()?;
        self.graph.name = if name == "graph" { String::new() } else { name };
        for (name, ty) in self.signature()? {
            let v = self.graph.add_input(&name, ty);
            self.names.insert(name, v);
        }
        if self.next() != Token::Arrow {
            return self.error("expected '=>' behind the inputs");
        }
        let outputs = self.signature()?;
        if self.eat('<') {
            self.constants()?;
        }
        self.expect('{')?;
        let mut aliases = BTreeMap::new();
        loop {
            match self.peek().clone() {
                Token::Mark('}') => break,
                Token::End => return self.error("expected '}' behind the operations"),
                Token::Comment(c) => {
                    self.at += 1;
                    let words: Vec<&str> = c.split_whitespace().map(|w| w.trim_matches('"')).collect();
                    match words[..] {
                        ["update", variable, "<-", next] => {
                            let (variable, next) = (self.value(variable)?, self.value(next)?);
                            self.graph.set_update(variable, next);
                        }
                        ["output", output, "=", value] => {
                            aliases.insert(output.to_string(), value.to_string());
                        }
                        _ => {}
                    }
                }
                _ => self.operation()?,
            }
        }
        for (name, ty) in outputs {
            let v = self.value(aliases.get(&name).unwrap_or(&name))?;
            if let Err(e) = self.graph.refine(v, &ty) {
                return self.error(e.to_string());
            }
            self.graph.add_output(&name, v);
        }
        Ok(())
    }

    fn value(&self, name: &str) -> Result<ValueId, TextError> {
        match self.names.get(name) {
            Some(&v) => Ok(v),
            None => self.error(format!("\"{name}\" is not defined before this line")),
        }
    }

    fn signature(&mut self) -> Result<Vec<(String, Type)>, TextError> {
        self.expect('(')?;
        let mut items = Vec::new();
        while !self.eat(')') {
            let ty = self.ty()?;
            items.push((self.name()?, ty));
            self.eat(',');
        }
        Ok(items)
    }

    fn ty(&mut self) -> Result<Type, TextError> {
        let name = match self.next() {
            Token::Mark('?') => return Ok(Type::unknown()),
            Token::Word(w) => w,
            other => return self.error(format!("expected a type, found {other:?}")),
        };
        let Some(dtype) = DType::from_name(&name) else {
            return self.error(format!("\"{name}\" is no type"));
        };
        let mut shape = None;
        if self.eat('[') {
            let dims = shape.insert(Vec::new());
            while !self.eat(']') {
                dims.push(match self.next() {
                    Token::Number(n) => match n.parse() {
                        Ok(n) => Dim::Fixed(n),
                        Err(_) => return self.error(format!("{n} is no size")),
                    },
                    Token::Word(w) => Dim::sym(&w),
                    Token::Mark('?') => Dim::Unknown,
                    other => return self.error(format!("expected a size, found {other:?}")),
                });
                self.eat(',');
            }
        }
        Ok(Type { dtype: Some(dtype), shape })
    }

    fn constants(&mut self) -> Result<(), TextError> {
        while !self.eat('>') {
            let ty = self.ty()?;
            let name = self.name()?;
            self.expect('=')?;
            let value = self.tensor(&ty)?;
            if *self.peek() == Token::Mark(',') {
                self.at += 1;
            }
            let words = self.trailing_comment().unwrap_or_default();
            let words: Vec<&str> = words.split_whitespace().collect();
            let v = match words[..] {
                ["param", group] => self.graph.add_variable(&name, value, Role::Param(group.into())),
                ["state"] => self.graph.add_variable(&name, value, Role::State),
                _ => self.graph.add_const(&name, value),
            };
            self.names.insert(name, v);
        }
        Ok(())
    }

    /// `{1, 2}` or `["key": "value", …]`, where the digest seeds drawn values.
    fn tensor(&mut self, ty: &Type) -> Result<Tensor, TextError> {
        let (Some(dtype), Some(shape)) = (ty.dtype, ty.dims()) else {
            return self.error("a constant needs a type with all sizes");
        };
        let len = tensor::element_count(&shape).filter(|&n| n <= 1 << 28);
        let Some(len) = len else { return self.error(format!("{shape:?} is too large for a text")) };
        let mut values = Vec::new();
        if self.eat('[') {
            let (mut seed, mut low, mut high) = (1u64, -1.0, 1.0);
            while !self.eat(']') {
                let key = self.name()?;
                self.expect(':')?;
                let value = self.name()?;
                match key.as_str() {
                    "fnv" => seed = u64::from_str_radix(&value, 16).unwrap_or(1),
                    "range" => {
                        let ends = value
                            .split_once("..")
                            .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                        let Some(ends) = ends else { return self.error(format!("\"{value}\" is no range")) };
                        (low, high) = ends;
                    }
                    _ => {}
                }
                self.eat(',');
            }
            let mut draw = move || {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 11) as f64 / (1u64 << 53) as f64
            };
            values.extend((0..len).map(|_| low + (high - low) * draw()));
        } else {
            self.expect('{')?;
            while !self.eat('}') {
                let (Token::Number(n) | Token::Word(n)) = self.next() else {
                    return self.error("expected a number");
                };
                let Ok(x) = n.parse::<f64>() else { return self.error(format!("\"{n}\" is no number")) };
                values.push(x);
                self.eat(',');
            }
        }
        if values.len() != len {
            return self.error(format!("{} values stand for {len} elements", values.len()));
        }
        match build(dtype, &shape, &values) {
            Some(t) => Ok(t),
            None => self.error(format!("constants of type {dtype} cannot be written as text")),
        }
    }

    fn operation(&mut self) -> Result<(), TextError> {
        let label = if self.eat('[') {
            let label = self.name()?;
            self.expect(']')?;
            Some(label)
        } else {
            None
        };
        let mut outs = vec![self.name()?];
        while self.eat(',') {
            outs.push(self.name()?);
        }
        self.expect('=')?;
        let full = self.name()?;
        let (domain, op_type) = full.rsplit_once('.').unwrap_or(("", &full));
        let mut attrs = Attrs::new();
        if self.eat('<') {
            while !self.eat('>') {
                let name = self.name()?;
                self.expect('=')?;
                attrs.set(&name, self.attribute()?);
                self.eat(',');
            }
        }
        self.expect('(')?;
        let mut ins: Vec<Option<ValueId>> = Vec::new();
        while !self.eat(')') {
            if self.eat(',') {
                ins.push(None);
                continue;
            }
            let name = self.name()?;
            ins.push(Some(self.value(&name)?));
            if !matches!(self.peek(), Token::Mark(')')) {
                self.expect(',')?;
            }
        }
        let cx = Parse { attrs: &attrs, opset: 17, ins: ins.len(), outs: outs.len() };
        let parsed = match self.registry.parse(domain, op_type, &cx) {
            Some(Ok(parsed)) => parsed,
            Some(Err(what)) => return self.error(format!("{op_type}: {what}")),
            None => {
                let (domain, op_type) = (domain.to_string(), op_type.to_string());
                Opaque { domain, op_type, attrs, captured: 0 }.into()
            }
        };
        let label = label.unwrap_or_else(|| outs[0].clone());
        let first = ins.first().copied().flatten();
        let parsed = parsed.typed(first.and_then(|v| self.graph.ty(v).dtype));
        for (slot, value) in parsed.inputs {
            ins.resize(ins.len().max(slot + 1), None);
            ins[slot] = Some(self.graph.add_const(&format!("{label}_{slot}"), value));
        }
        let names: Vec<&str> = outs.iter().map(String::as_str).collect();
        match self.graph.add_node(parsed.op, &ins, &label, &names) {
            Err(e) => self.error(e.to_string()),
            Ok(node) => {
                for (i, name) in outs.into_iter().enumerate() {
                    self.names.insert(name, ValueId { node, out: i as u16 });
                }
                // The types behind the operation.
                self.trailing_comment();
                Ok(())
            }
        }
    }

    fn attribute(&mut self) -> Result<Attr, TextError> {
        match self.next() {
            Token::Quoted(s) => Ok(Attr::Str(s)),
            Token::Number(n) | Token::Word(n) => self.number(&n),
            Token::Mark('[') => {
                let mut items = Vec::new();
                while !self.eat(']') {
                    items.push(self.attribute()?);
                    self.eat(',');
                }
                let ints: Option<Vec<i64>> =
                    items.iter().map(|a| if let Attr::Int(x) = a { Some(*x) } else { None }).collect();
                let floats: Option<Vec<f32>> =
                    items.iter().map(|a| if let Attr::Float(x) = a { Some(*x) } else { None }).collect();
                let strs: Option<Vec<String>> =
                    items.iter().map(|a| if let Attr::Str(x) = a { Some(x.clone()) } else { None }).collect();
                match (ints, floats, strs) {
                    (Some(x), ..) => Ok(Attr::Ints(x)),
                    (_, Some(x), _) => Ok(Attr::Floats(x)),
                    (.., Some(x)) => Ok(Attr::Strs(x)),
                    _ => self.error("a list holds values of one kind"),
                }
            }
            other => self.error(format!("expected an attribute value, found {other:?}")),
        }
    }

    fn number(&self, n: &str) -> Result<Attr, TextError> {
        if let Ok(x) = n.parse::<i64>() {
            return Ok(Attr::Int(x));
        }
        match n.parse::<f32>() {
            Ok(x) => Ok(Attr::Float(x)),
            Err(_) => self.error(format!("\"{n}\" is no number")),
        }
    }
}

fn build(dtype: DType, shape: &[usize], values: &[f64]) -> Option<Tensor> {
    macro_rules! of {
        ($t:ty) => {
            Tensor::new(shape, values.iter().map(|&x| x as $t).collect::<Vec<$t>>())
        };
    }
    Some(match dtype {
        DType::F32 => of!(f32),
        DType::F64 => of!(f64),
        DType::I8 => of!(i8),
        DType::U8 => of!(u8),
        DType::I16 => of!(i16),
        DType::U16 => of!(u16),
        DType::I32 => of!(i32),
        DType::U32 => of!(u32),
        DType::I64 => of!(i64),
        DType::U64 => of!(u64),
        DType::Bool => Tensor::bools(shape, &values.iter().map(|&x| x != 0.0).collect::<Vec<_>>()),
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::text::print;

    struct NoOps;
    impl Registry for NoOps {
        fn parse(&self, _: &str, _: &str, _: &Parse) -> Option<Result<crate::Parsed, String>> {
            None
        }
    }

    const TEXT: &str = r#"net (float[N,3] x) => (? y, ? z)
<
  float[2] w = {0.5, -1.0},  # param weights
  float[3,4] v = ["fnv": "00000000000000ff", "range": "-1.0..2.0"],
  float[1] r = {0.0}  # state
>
{
  [first] y = Foo <alpha=0.5, ints=[1, 2], mode="up"> (x, , w)  # ?
  q = my.Bar (y, v)  # ?
  # output z = q
  # update r <- q
}
"#;

    #[test]
    fn parse_and_print_are_inverse() {
        let graph = parse(TEXT, &NoOps).unwrap();
        graph.check().unwrap();
        let once = print(&graph);
        let twice = print(&parse(&once, &NoOps).unwrap());
        let without_digest =
            |s: &str| s.lines().filter(|l| !l.contains("fnv")).collect::<Vec<_>>().join("\n");
        assert_eq!(without_digest(&once), without_digest(TEXT));
        assert_eq!(without_digest(&once), without_digest(&twice));
    }

    #[test]
    fn a_comment_belongs_to_the_line_on_which_it_stands() {
        let text =
            "net () => (? z)\n<\n  float[1] r = {0.0}\n  # state\n>\n{\n  q = Bar (r)\n  # output z = q\n}\n";
        let graph = parse(text, &NoOps).unwrap();
        assert!(graph.constant(graph.find("r").unwrap()).is_some());
        assert_eq!(graph.outputs()[0].name, "z");
    }

    #[test]
    fn mistakes_name_their_line() {
        let e = |text: &str| parse(text, &NoOps).unwrap_err().to_string();
        assert_eq!(
            e("net (float x) => ()\n{\n  y = Foo (z)\n}"),
            "line 3: \"z\" is not defined before this line"
        );
        assert!(e("net (floot x) => () {}").contains("\"floot\" is no type"));
        assert!(e("net () => () { y = Foo (").contains("expected a name"));
        assert!(e("").contains("expected a name"));
    }

    #[test]
    fn no_text_panics() {
        for end in 0..TEXT.len() {
            let _ = parse(&TEXT[..end], &NoOps);
            let mut cut = TEXT.to_string();
            cut.remove(end);
            let _ = parse(&cut, &NoOps);
        }
    }
}
