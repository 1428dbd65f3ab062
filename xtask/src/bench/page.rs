//! docs/benchmarks.md: one page of three sections, of which each is replaced by the command that measures it.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::workspace::root;

/// A part of the page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    /// `cargo xtask bench`.
    Ceiling,
    /// `cargo xtask bench --against pytorch`.
    Peer,
    /// `cargo xtask bench growth`.
    Growth,
}

impl Section {
    const ALL: [Self; 3] = [Self::Ceiling, Self::Peer, Self::Growth];

    fn name(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling",
            Self::Peer => "pytorch",
            Self::Growth => "growth",
        }
    }

    fn introduction(self) -> &'static str {
        match self {
            Self::Ceiling => CEILING,
            Self::Peer => PEER,
            Self::Growth => GROWTH,
        }
    }

    fn start(self) -> String {
        format!("<!-- {} -->\n", self.name())
    }

    fn end(self) -> String {
        format!("<!-- end of {} -->\n", self.name())
    }

    /// The section of `page`, with its markers; nothing where it has none.
    fn find(self, page: &str) -> Option<&str> {
        let start = page.find(&self.start())?;
        let end = page[start..].find(&self.end())?;
        Some(&page[start..start + end + self.end().len()])
    }
}

/// The list of comparisons.
pub(super) fn json() -> PathBuf {
    root().join("docs/benchmarks.json")
}

/// Replaces a section and keeps everything else.
///
/// # Errors
/// The page cannot be read or written.
pub(super) fn write(section: Section, text: &str) -> Result<()> {
    let path = root().join("docs/benchmarks.md");
    let page = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    fs::create_dir_all(root().join("docs")).context("cannot make docs/")?;
    fs::write(&path, replaced(&page, section, text)).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

fn replaced(page: &str, section: Section, text: &str) -> String {
    let new = format!("{}{}\n{text}{}", section.start(), section.introduction(), section.end());
    if let Some(old) = section.find(page) {
        return page.replacen(old, &new, 1);
    }
    // In the order of the sections; whatever else stands on the page stays where it is.
    let (before, after): (Vec<Section>, Vec<Section>) = Section::ALL.into_iter().partition(|other| *other < section);
    let place = |other: &Section| other.find(page).and_then(|text| Some((page.find(text)?, text.len())));
    if let Some((start, len)) = before.iter().rev().find_map(place) {
        let (head, tail) = page.split_at(start + len);
        return format!("{head}\n{new}{tail}");
    }
    if let Some((start, _)) = after.iter().find_map(place) {
        let (head, tail) = page.split_at(start);
        return format!("{head}{new}\n{tail}");
    }
    let page = if page.is_empty() { TITLE } else { page };
    format!("{page}\n{new}")
}

const TITLE: &str = "\
# Benchmarks

Figures of one machine and one day. What lies between markers is written by the command named there; the text around it is
written by hand. `DARTS_SIMD=avx2` (or `portable`) switches the AVX-512 paths off.
";

const CEILING: &str = "\
## Beside the machine's ceiling

`cargo xtask bench`: the functions that runs call, in f32, each step in a process of its own. The bound is the least time that
the machine's measured FMA rate and copy bandwidth allow: for the operations of the definition, and for reading every input
and writing every output once. Whole steps are those of the paper: the convolutional search's at C 16, 8 layers, batch 64,
whose weight step is 115 GFLOP and, by estimate, at least 9 GB (a second-order α step is four such passes); the evaluation network
(DARTS_V2) at C 36, 20 layers, batch 96; the recurrent search's on Penn Treebank at 300 units, batch 256, 35 time steps, and the
recurrent evaluation network (DARTS_V2) at 850 units, batch 64, 35 time steps (a pass for α's gradient alone counts no
operations for that of the weights).
";

const PEER: &str = "\
## Beside PyTorch

`cargo xtask bench --against pytorch`: the same work in bench/pytorch, which is checked on the golden values first; both sides
in turns, every measurement a process of its own, as many threads as cores. The peer is PyTorch's fastest variant whose first
loss and gradient norm are those of its default variant.
";

const GROWTH: &str = "\
## How a step grows

`cargo xtask bench growth`: the convolutional search's weight step with one size varied at a time, the others at batch 16, C 16,
8 layers, 4 nodes. Exponents are least-squares fits of the logarithms; 1.00 in time is growth exactly with the arithmetic.
";

#[cfg(test)]
mod tests {
    use super::{Section, replaced};

    #[test]
    fn a_section_is_replaced_and_the_rest_is_kept() {
        let page = replaced("", Section::Peer, "old peer\n");
        let page = replaced(&page, Section::Ceiling, "ceiling\n");
        assert!(page.find("ceiling\n").unwrap() < page.find("old peer").unwrap());
        let page = format!("{page}\nWritten by hand.\n");
        let page = replaced(&page, Section::Peer, "new peer\n");
        assert!(page.contains("new peer") && !page.contains("old peer"));
        assert!(page.contains("\nceiling\n") && page.ends_with("\nWritten by hand.\n"));
        let page = replaced(&page, Section::Growth, "growth\n");
        assert!(page.find("new peer").unwrap() < page.find("\ngrowth\n").unwrap(), "{page}");
        assert!(page.contains("\nceiling\n") && page.ends_with("\nWritten by hand.\n"), "{page}");
    }
}
