//! Pages for people: one file each, without scripts, readable in light and dark, on screen and paper.

use std::fmt::{Display, Write};

/// A piece of HTML. Text becomes one by [`Html::from`], which escapes it; nothing else does.
///
/// ```
/// use onnx_qat_report::html::{Html, element};
/// assert_eq!(element("b", "", "1 < 2").to_string(), "<b>1 &lt; 2</b>");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Html(String);

impl Html {
    /// What is HTML already: made of numbers and constants, or of other pieces.
    pub(crate) fn raw(html: String) -> Html {
        Html(html)
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Html {
    fn from(text: &str) -> Html {
        let mut html = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '&' => html += "&amp;",
                '<' => html += "&lt;",
                '>' => html += "&gt;",
                '"' => html += "&quot;",
                // Control characters have no place in a page; names of tensors may hold them.
                c if c.is_control() && c != '\n' => html.push('\u{fffd}'),
                c => html.push(c),
            }
        }
        Html(html)
    }
}

impl From<String> for Html {
    fn from(text: String) -> Html {
        text.as_str().into()
    }
}

impl FromIterator<Html> for Html {
    fn from_iter<I: IntoIterator<Item = Html>>(pieces: I) -> Html {
        Html(pieces.into_iter().map(|p| p.0).collect())
    }
}

impl<const N: usize> From<[Html; N]> for Html {
    fn from(pieces: [Html; N]) -> Html {
        pieces.into_iter().collect()
    }
}

impl Display for Html {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// `<tag class="class">inner</tag>`; without a class when it is empty.
pub fn element(tag: &str, class: &str, inner: impl Into<Html>) -> Html {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    Html(format!("<{tag}{class}>{}</{tag}>", inner.into().0))
}

/// A whole page: a heading, a sentence below it, sections.
pub fn page(title: &str, lead: impl Into<Html>, sections: impl IntoIterator<Item = Html>) -> String {
    let sections: Html = sections.into_iter().collect();
    let (name, lead) = (Html::from(title), lead.into());
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{name}</title>\n<style>\n{}</style>\n</head>\n<body>\n\
         <header><h1>{name}</h1><p class=\"lead\">{lead}</p></header>\n<main>\n{sections}</main>\n\
         <footer>onnx-qat {}</footer>\n</body>\n</html>\n",
        include_str!("page.css"),
        env!("CARGO_PKG_VERSION"),
    )
}

/// A part of a page, with a heading and a sentence on how to read it.
pub fn section(title: &str, note: &str, body: impl Into<Html>) -> Html {
    let note = if note.is_empty() { Html::default() } else { element("p", "note", note) };
    element("section", "", [element("h2", "", title), note, body.into()])
}

/// A number that matters: what it is, its value, and something to compare it with.
pub struct Tile {
    /// What it is.
    pub label: String,
    /// The value.
    pub value: String,
    /// What to compare it with.
    pub note: String,
}

/// Tiles in a row.
pub fn tiles(tiles: impl IntoIterator<Item = Tile>) -> Html {
    let tile = |t: Tile| {
        let value = element("div", "value", t.value);
        element("div", "tile", [element("div", "label", t.label), value, element("div", "note", t.note)])
    };
    element("div", "tiles", tiles.into_iter().map(tile).collect::<Html>())
}

/// A frame around one thing among others of its kind.
pub fn card(title: impl Into<Html>, subtitle: &str, body: impl Into<Html>) -> Html {
    let subtitle = if subtitle.is_empty() { Html::default() } else { element("p", "note", subtitle) };
    element("article", "card", [element("h3", "", title), subtitle, body.into()])
}

/// Cards side by side, as many as fit.
pub fn grid(cards: impl IntoIterator<Item = Html>) -> Html {
    element("div", "grid", cards.into_iter().collect::<Html>())
}

/// Larger cards, two beside each other.
pub fn halves(cards: impl IntoIterator<Item = Html>) -> Html {
    element("div", "grid halves", cards.into_iter().collect::<Html>())
}

/// Something that is shown when its summary is clicked.
pub fn details(summary: &str, body: impl Into<Html>) -> Html {
    element("details", "", [element("summary", "", summary), body.into()])
}

/// Names of the colors of series 0, 1, …
pub fn legend(names: impl IntoIterator<Item = (usize, Html)>) -> Html {
    let entry = |(series, name): (usize, Html)| {
        let dot = element("i", &format!("dot s{series}"), "");
        element("span", "", [dot, name])
    };
    element("p", "legend", names.into_iter().map(entry).collect::<Html>())
}

/// A column of a [`table`].
#[derive(Clone, Copy, Debug)]
pub enum Column<'a> {
    /// Words, to the left.
    Text(&'a str),
    /// Numbers, to the right.
    Number(&'a str),
}

/// A table of pieces.
pub fn table<'a>(
    columns: impl IntoIterator<Item = Column<'a>>,
    rows: impl IntoIterator<Item = Vec<Html>>,
) -> Html {
    let (mut classes, mut head) = (Vec::new(), Vec::new());
    for column in columns {
        let (class, title) = match column {
            Column::Text(title) => ("", title),
            Column::Number(title) => ("num", title),
        };
        classes.push(class);
        head.push(element("th", class, title));
    }
    let cell = |(i, cell): (usize, Html)| element("td", classes.get(i).copied().unwrap_or_default(), cell);
    let row = |row: Vec<Html>| element("tr", "", row.into_iter().enumerate().map(cell).collect::<Html>());
    let body: Html = rows.into_iter().map(row).collect();
    let head = element("thead", "", element("tr", "", head.into_iter().collect::<Html>()));
    element("div", "scroll", element("table", "", [head, element("tbody", "", body)]))
}

/// A name from a model, in letters of equal width, that breaks where it has to.
pub fn code(name: &str) -> Html {
    element("code", "", name)
}

/// A number over a bar that shows it as a share of 1.
pub fn meter(text: &str, share: f64) -> Html {
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 1.0 };
    let mut html = String::new();
    let _ = write!(html, "<i class=\"bar\" style=\"width:{:.1}%\"></i>", 100.0 * share);
    element("span", "meter", [Html(html), element("span", "", text)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out() {
        let name = "a\"<script>&\u{1}";
        let html = table([Column::Text(name)], [vec![code(name)]]).to_string();
        assert!(!html.contains("<script") && html.contains("a&quot;&lt;script&gt;&amp;\u{fffd}"), "{html}");
        let html = page(name, name, [section(name, name, card(name, name, name))]);
        assert!(!html.contains("<script"), "{html}");
    }

    #[test]
    fn a_page_needs_nothing_from_elsewhere() {
        let html = page("t", "l", [tiles([Tile { label: "a".into(), value: "1".into(), note: "".into() }])]);
        for elsewhere in ["http:", "https:", "src=", "@import", "url(", "<link", "<script"] {
            assert!(!html.contains(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn meters_stay_in_their_cells() {
        for (share, width) in [(0.5, "50.0%"), (7.0, "100.0%"), (-1.0, "0.0%"), (f64::INFINITY, "100.0%")] {
            assert!(meter("x", share).to_string().contains(&format!("width:{width}")), "{share}");
        }
    }
}
