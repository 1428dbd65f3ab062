//! A check that a page is well-formed, for pages that are written as XML and HTML at once.

use std::error::Error;

/// Whether tags nest and close, attributes are quoted and entities are known.
///
/// # Errors
/// What is wrong and where, with the text around it.
pub fn check(page: &str) -> Result<(), Box<dyn Error>> {
    let body = page.strip_prefix("<!DOCTYPE html>").unwrap_or(page);
    match resvg::usvg::roxmltree::Document::parse(body) {
        Ok(_) => Ok(()),
        Err(error) => {
            let line = body.lines().nth((error.pos().row as usize).saturating_sub(1)).unwrap_or_default();
            let around: String = line.chars().skip((error.pos().col as usize).saturating_sub(80)).take(160).collect();
            Err(format!("{error}: {around}").into())
        }
    }
}
