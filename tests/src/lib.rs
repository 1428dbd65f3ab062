//! What several end-to-end tests share; the tests themselves are in `tests/`.

pub mod browser;
pub mod program;
pub mod run_folders;
pub mod xml;
