//! Markdown laid out in lines of a terminal.

use super::code::Code;
use super::paint::{self, Line, Look, Span, wrap};
use pulldown_cmark::{Alignment, CodeBlockKind, Event, HeadingLevel, OffsetIter, Options, Parser, Tag, TagEnd};
use std::iter::Peekable;
use std::ops::Range;

/// Narrower than this nothing is laid out; what does not fit then is chopped.
const NARROWEST: usize = 8;
/// A rule across a wide screen says no more than a short one.
const RULE: usize = 40;

fn options() -> Options {
    Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS
}

/// Where the blocks of a text lie that are inside no other.
pub fn blocks(text: &str) -> Vec<Range<usize>> {
    let (mut depth, mut out) = (0usize, Vec::new());
    for (event, range) in Parser::new_ext(text, options()).into_offset_iter() {
        match event {
            Event::Start(_) => {
                if depth == 0 {
                    out.push(range);
                }
                depth += 1;
            }
            Event::End(_) => depth -= 1,
            _ if depth == 0 => out.push(range),
            _ => {}
        }
    }
    out
}

/// The lines of a text, each of at most `width` columns. `code` keeps what was done for the last block of code.
pub fn lay(text: &str, width: usize, code: &mut Code) -> Vec<Line> {
    let mut layer =
        Layer { text, events: Parser::new_ext(text, options()).into_offset_iter().peekable(), depth: 0, code };
    let lines = layer.flow(width, Look::default(), false);
    lines
        .into_iter()
        .flat_map(|line| if paint::columns(&line) > width { paint::chop(&line, width) } else { vec![line] })
        .collect()
}

struct Layer<'a, 'c> {
    text: &'a str,
    events: Peekable<OffsetIter<'a>>,
    /// Inside how many lists and quotes.
    depth: usize,
    code: &'c mut Code,
}

impl<'a> Layer<'a, '_> {
    /// What stands inside the tag that was opened last, to its end: blocks with a line between them unless `tight`.
    fn flow(&mut self, width: usize, base: Look, tight: bool) -> Vec<Line> {
        let width = width.max(NARROWEST);
        let (mut out, mut words, mut looks, mut link) = (Vec::new(), Vec::new(), vec![base], None);
        while let Some((event, range)) = self.events.next() {
            let look = *looks.last().expect("the first stays");
            match event {
                Event::Start(tag) => match inline(&tag, look) {
                    Some(look) => {
                        looks.push(look);
                        if let Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } = tag {
                            link = Some((dest_url, words.len()));
                        }
                    }
                    None => {
                        add(&mut out, wrapped(&mut words, width), tight);
                        let lines = self.block(tag, width, base);
                        add(&mut out, lines, tight);
                    }
                },
                Event::End(TagEnd::Link | TagEnd::Image) => {
                    looks.pop();
                    if let Some((url, from)) = link.take() {
                        let said: String = words[from..].iter().map(|span: &Span| span.text.as_str()).collect();
                        if !url.is_empty() && said != *url && !url.starts_with('#') {
                            words.push(Span::new(format!(" ({url})"), Look { dim: true, ..base }));
                        }
                    }
                }
                Event::End(TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough) => drop(looks.pop()),
                Event::End(_) => break,
                Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => {
                    words.push(Span::new(text.as_ref(), look))
                }
                Event::Code(text) => words.push(Span::new(text.as_ref(), Look { colour: 36, ..look })),
                // Models break lines where they mean it: in verses, in addresses.
                Event::SoftBreak | Event::HardBreak => words.push(Span::plain(format!("\n{}", self.indent(range.end)))),
                Event::TaskListMarker(done) => words.push(Span::plain(if done { "☑ " } else { "☐ " })),
                Event::Rule => {
                    let rule = Span::new("─".repeat(width.min(RULE)), Look { dim: true, ..base });
                    add(&mut out, vec![vec![rule]], tight);
                }
                Event::InlineMath(_) | Event::DisplayMath(_) | Event::FootnoteReference(_) => {} // not asked for
            }
        }
        add(&mut out, wrapped(&mut words, width), tight);
        out
    }

    /// The lines of a block whose tag was just opened.
    fn block(&mut self, tag: Tag<'a>, width: usize, base: Look) -> Vec<Line> {
        match tag {
            Tag::Heading { level, .. } => {
                let underlined = level == HeadingLevel::H1;
                self.flow(width, Look { bold: true, underlined, colour: 36, ..base }, true)
            }
            Tag::BlockQuote(_) => {
                self.depth += 1;
                let bar = [Span::new("▎ ", Look { dim: true, ..Look::default() })];
                let lines = self.flow(width.saturating_sub(2), Look { italic: true, ..base }, false);
                self.depth -= 1;
                lines.into_iter().map(|line| [&bar[..], &line].concat()).collect()
            }
            Tag::CodeBlock(kind) => self.code_block(&kind, width),
            Tag::List(first) => self.list(first, width, base),
            Tag::Table(sides) => self.table(&sides, width, base),
            _ => self.flow(width, base, false),
        }
    }

    fn code_block(&mut self, kind: &CodeBlockKind<'_>, width: usize) -> Vec<Line> {
        let mut text = String::new();
        for (event, _) in self.events.by_ref() {
            match event {
                Event::Text(part) => text.push_str(&part),
                Event::End(_) => break,
                _ => {}
            }
        }
        let language = match kind {
            CodeBlockKind::Fenced(language) => language.as_ref(),
            CodeBlockKind::Indented => "",
        };
        let lines = self.code.lines(language, &text);
        let chopped = lines.iter().flat_map(|line| paint::chop(line, width.saturating_sub(2).max(1)));
        chopped.map(|line| [&[Span::plain("  ")][..], &line].concat()).collect()
    }

    fn list(&mut self, first: Option<u64>, width: usize, base: Look) -> Vec<Line> {
        let (mut out, mut number) = (Vec::new(), first);
        self.depth += 1;
        while let Some((Event::Start(Tag::Item), _)) = self.events.next() {
            let mark = number.map_or("• ".to_string(), |n| format!("{n}. "));
            number = number.map(|n| n + 1);
            let indent = super::width::columns(&mark);
            let (lines, tight) = self.item(width.saturating_sub(indent), base);
            let mark = [Span::new(mark, Look { colour: 36, ..base })];
            let blank = [Span::plain(" ".repeat(indent))];
            let marked = lines.into_iter().enumerate().map(|(at, line)| match at {
                0 => [&mark[..], &line].concat(),
                _ if line.is_empty() => line,
                _ => [&blank[..], &line].concat(),
            });
            let marked: Vec<Line> = marked.collect();
            add(&mut out, if marked.is_empty() { vec![mark.to_vec()] } else { marked }, tight);
        }
        self.depth -= 1;
        out
    }

    /// The spaces a line of a paragraph begins with: Markdown drops them, and code without a fence needs them.
    fn indent(&self, at: usize) -> &'a str {
        let rest = &self.text[at..];
        if self.depth > 0 { "" } else { &rest[..rest.len() - rest.trim_start_matches(' ').len()] }
    }

    /// An item's lines, and whether its text stands for itself: in loose lists it is a paragraph.
    fn item(&mut self, width: usize, base: Look) -> (Vec<Line>, bool) {
        let loose = matches!(self.events.peek(), Some((Event::Start(Tag::Paragraph), _)));
        (self.flow(width, base, !loose), !loose)
    }

    fn table(&mut self, sides: &[Alignment], width: usize, base: Look) -> Vec<Line> {
        let mut rows: Vec<Vec<Vec<Span>>> = Vec::new();
        while let Some((event, _)) = self.events.next() {
            match event {
                Event::Start(Tag::TableHead | Tag::TableRow) => rows.push(Vec::new()),
                Event::Start(Tag::TableCell) => {
                    let look = Look { bold: rows.len() == 1, ..base };
                    // One line, whatever its length: it is broken when the columns are known.
                    let lines = self.flow(usize::MAX, look, true);
                    rows.last_mut().expect("cells stand in rows").push(lines.into_iter().next().unwrap_or_default());
                }
                Event::End(TagEnd::Table) => break,
                _ => {}
            }
        }
        let room = width.saturating_sub(3 * sides.len().saturating_sub(1));
        match room >= 3 * sides.len() {
            true => drawn(&rows, sides, room),
            false => rows.iter().flat_map(|row| wrap(&row.join(&Span::plain(" | ")), width, &[], &[])).collect(),
        }
    }
}

/// Rows with their columns side by side, in `room` columns without what stands between.
fn drawn(rows: &[Vec<Vec<Span>>], sides: &[Alignment], room: usize) -> Vec<Line> {
    let longest = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| paint::columns(cell)).max();
    let mut widths: Vec<usize> = (0..sides.len()).map(|column| longest(column).unwrap_or(0).max(1)).collect();
    // The widest gives first; no cell is longer than what an answer may hold, so this ends soon enough.
    while widths.iter().sum::<usize>() > room {
        *widths.iter_mut().max().expect("a table has columns") -= 1;
    }
    let dim = |text: &str| Span::new(text, Look { dim: true, ..Look::default() });
    let mut out = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<Vec<Line>> = widths
            .iter()
            .enumerate()
            .map(|(column, width)| row.get(column).map_or(vec![], |cell| wrap(cell, *width, &[], &[])))
            .collect();
        for at in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
            let mut line = Line::new();
            for (column, cell) in cells.iter().enumerate() {
                if column > 0 {
                    line.push(dim(" │ "));
                }
                let text = cell.get(at).cloned().unwrap_or_default();
                let gap = widths[column].saturating_sub(paint::columns(&text));
                let before = match sides[column] {
                    Alignment::Right => gap,
                    Alignment::Center => gap / 2,
                    Alignment::Left | Alignment::None => 0,
                };
                line.push(Span::plain(" ".repeat(before)));
                line.extend(text);
                line.push(Span::plain(" ".repeat(gap - before)));
            }
            out.push(line);
        }
        if number == 0 {
            let parts: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
            out.push(vec![dim(&parts.join("─┼─"))]);
        }
    }
    out
}

/// The looks inside an inline tag; `None` for blocks.
fn inline(tag: &Tag<'_>, look: Look) -> Option<Look> {
    Some(match tag {
        Tag::Emphasis => Look { italic: true, ..look },
        Tag::Strong => Look { bold: true, ..look },
        Tag::Strikethrough => Look { struck: true, ..look },
        Tag::Link { .. } | Tag::Image { .. } => Look { underlined: true, ..look },
        _ => return None,
    })
}

fn wrapped(words: &mut Vec<Span>, width: usize) -> Vec<Line> {
    let words = std::mem::take(words);
    if words.is_empty() { vec![] } else { wrap(&words, width, &[], &[]) }
}

fn add(out: &mut Vec<Line>, lines: Vec<Line>, tight: bool) {
    if !out.is_empty() && !lines.is_empty() && !tight {
        out.push(Line::new());
    }
    out.extend(lines);
}
