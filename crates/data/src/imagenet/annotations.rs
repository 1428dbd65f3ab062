//! Tiny-ImageNet's own layout: `train/<wnid>/images/*.JPEG`, and validation images in one folder with a file that names
//! their classes, `val/val_annotations.txt` (file, class, box; separated by tabs).

use std::path::{Path, PathBuf};

use crate::Error;

/// The file that tells the layout.
pub(super) const FILE: &str = "val_annotations.txt";
/// Its 10,000 lines have 400 kB.
const MOST_BYTES: u64 = 64 << 20;

/// The class of each file, in the order of the lines: (file name, class name).
pub(super) fn read(val: &Path) -> Result<Vec<(String, String)>, Error> {
    let path = val.join(FILE);
    let bytes = std::fs::metadata(&path).map_err(Error::io("inspect", &path))?.len();
    if bytes > MOST_BYTES {
        return Err(Error::WrongSize { path, found: bytes, expected: format!("at most {MOST_BYTES} bytes") });
    }
    let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
    parse(&text).map_err(|problem| Error::Layout {
        path: path.clone(),
        problem,
        expected: "lines of file, class and box, separated by tabs",
    })
}

/// The lines of the file; the error is the reason, for a person.
fn parse(text: &[u8]) -> Result<Vec<(String, String)>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is no text".to_owned())?;
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let mut columns = line.split('\t');
        let (Some(file), Some(class)) = (columns.next(), columns.next()) else {
            return Err(format!("line {} has no class", number + 1));
        };
        let is_name = |name: &str| !name.is_empty() && !name.contains(['/', '\\']) && name != "." && name != "..";
        if !is_name(file) || !is_name(class) {
            return Err(format!("line {} names no file and class", number + 1));
        }
        entries.push((file.to_owned(), class.to_owned()));
    }
    Ok(entries)
}

/// Where a validation image is.
pub(super) fn image(val: &Path, file: &str) -> PathBuf {
    val.join("images").join(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};
    use crate::test_memory::peak_bytes;

    const GOOD: &[u8] =
        b"val_0.JPEG\tn03444034\t0\t32\t44\t62\nval_1.JPEG\tn04067472\t52\t55\t57\t59\r\n\nval_2.JPEG\tn1\n";

    #[test]
    fn files_and_classes_are_the_first_two_columns() {
        let entries = parse(GOOD).unwrap();
        let expected = [("val_0.JPEG", "n03444034"), ("val_1.JPEG", "n04067472"), ("val_2.JPEG", "n1")];
        assert_eq!(entries, expected.map(|(file, class)| (file.to_owned(), class.to_owned())));
    }

    #[test]
    fn lines_that_name_nothing_or_leave_the_folder_are_refused_by_number() {
        assert_eq!(parse(b"a\tb\nc\n").unwrap_err(), "line 2 has no class");
        assert_eq!(parse(b"../a\tb\n").unwrap_err(), "line 1 names no file and class");
        assert_eq!(parse(b"a\t\n").unwrap_err(), "line 1 names no file and class");
        assert_eq!(parse(b"\xFF\xFE").unwrap_err(), "it is no text");
    }

    #[test]
    fn ten_thousand_mutated_annotations_never_panic_leave_the_folder_or_take_much_memory() {
        for input in 0..12_000 {
            let mut random = Key::new(input, Purpose::new("mutated annotations")).generator();
            let mut text = GOOD.to_vec();
            for _ in 0..=random.below(4) {
                let at = random.below(text.len());
                text[at] = [random.below(256) as u8, b'\t', b'\n', b'/', b'.'][random.below(5)];
            }
            text.truncate(random.below(2 * GOOD.len()).max(1));
            let (result, peak) = peak_bytes(|| parse(&text));
            assert!(peak < 1 << 14, "input {input} took {peak} bytes");
            for (file, class) in result.into_iter().flatten() {
                assert_eq!(Path::new("val").join(&file).components().count(), 2, "{file}");
                assert!(!class.is_empty());
            }
        }
    }
}
