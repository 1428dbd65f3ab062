//! Tells the crate which commit it is built from. A package unpacked from a registry has no git folder; it says "unknown".

use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_string()).filter(|text| !text.is_empty())
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Only a checkout of this project counts: a package that lies inside somebody else's repository has another root.
    let ours = git(&["ls-files", "--error-unmatch", "build.rs"]).is_some();
    let commit = ours.then(|| git(&["rev-parse", "HEAD"])).flatten();
    if commit.is_some() {
        let head = git(&["rev-parse", "--git-path", "HEAD"]);
        let branch = git(&["symbolic-ref", "HEAD"]).and_then(|name| git(&["rev-parse", "--git-path", &name]));
        for path in [head, branch].into_iter().flatten().filter(|path| std::path::Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    println!("cargo:rustc-env=DARTS_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}
