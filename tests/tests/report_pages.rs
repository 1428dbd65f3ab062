//! Reports of made-up run folders: what must stand on a page, what must not, and that nothing in a folder breaks one.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use darts_runs::report::{FILE, ReportError, tables, write_pipeline, write_run};
use darts_tests::{
    run_folders::{RunFolder, write_experiment},
    xml,
};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

type Result = std::result::Result<(), Box<dyn Error>>;

fn run_page(folder: &RunFolder) -> std::result::Result<(TempDir, String), Box<dyn Error>> {
    let dir = tempdir()?;
    folder.write(dir.path())?;
    let page = fs::read_to_string(write_run(dir.path())?)?;
    xml::check(&page)?;
    Ok((dir, page))
}

fn experiment_page(task: &'static str, searches: u64) -> std::result::Result<(TempDir, String), Box<dyn Error>> {
    let dir = tempdir()?;
    write_experiment(dir.path(), task, searches)?;
    let page = fs::read_to_string(write_pipeline(dir.path(), task)?)?;
    xml::check(&page)?;
    Ok((dir, page))
}

/// The page without markup, so that figures can be looked for as they are read.
fn text(page: &str) -> String {
    let mut out = String::new();
    for part in page.split('<').skip(1) {
        out.push_str(part.split_once('>').map_or("", |(_, text)| text));
    }
    out.replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&").replace("&#39;", "'").replace("&quot;", "\"")
}

#[test]
fn every_row_of_the_published_tables_is_on_the_page_of_its_data() -> Result {
    let pages = [
        (&tables::CIFAR10, experiment_page("cifar10", 1)?.1),
        (&tables::PENN_TREEBANK, experiment_page("ptb", 1)?.1),
        (&tables::IMAGENET, run_page(&RunFolder::training(0).on("imagenet"))?.1),
        (&tables::WIKITEXT2, run_page(&RunFolder::training(0).on("wikitext2"))?.1),
        (&tables::CIFAR10, experiment_page("synthetic-images", 1)?.1),
    ];
    for (table, page) in pages {
        let text = text(&page);
        assert!(text.contains(&format!("Table {} of the paper", table.number)));
        for row in table.rows {
            let start = text.find(&format!("{}{}", row.architecture, if row.retrained { " †" } else { "" }));
            assert!(start.is_some(), "table {}: {row:?}", table.number);
            for figure in row.figures.iter().flatten() {
                assert!(text.contains(&figure.text()), "table {}: {row:?}", table.number);
            }
            assert!(row.v1.is_none_or(|difference| text.contains(difference)), "table {}: {row:?}", table.number);
        }
        assert!(text.contains("Liu, K. Simonyan, Y. Yang"), "the source is named");
    }
    Ok(())
}

#[test]
fn the_own_result_stands_in_its_row_with_n_and_with_what_differs_from_the_paper() -> Result {
    let (_dir, page) = experiment_page("cifar10", 4)?;
    let own = page
        .split("<tbody class=\"own\">")
        .nth(1)
        .and_then(|rest| rest.split("</tbody>").next())
        .ok_or("no own row")?;
    assert!(own.contains("second order") && own.contains("2.81") && own.contains("3.3"), "{own}");
    assert!(text(&page).contains("one final training (n = 1)"));
    assert!(!text(&page).contains("Not the paper’s setting"), "the fixture has the paper's settings");
    let (_dir, page) = experiment_page("cifar10", 2)?;
    assert!(text(&page).contains("number of searches 2 (paper: 4)"));
    Ok(())
}

#[test]
fn several_searches_are_given_as_mean_deviation_and_n() -> Result {
    let (_dir, page) = experiment_page("cifar10", 4)?;
    let text = text(&page);
    // Sample deviations of the fixture's 11.2, 11.5, 11.8, 12.1 and 4.21, 3.90, 4.42, 4.08.
    assert!(text.contains("11.65 ± 0.39 % (n = 4)"), "of the searches");
    assert!(text.contains("4.15 ± 0.22 % (n = 4)"), "of the selection");
    assert!(text.contains("seed 1 chosen"), "seed 1 has the lowest error on validation data");
    Ok(())
}

#[test]
fn the_choice_that_selection_json_names_is_shown() -> Result {
    let dir = tempdir()?;
    write_experiment(dir.path(), "cifar10", 3)?;
    fs::write(dir.path().join("selection.json"), json!({"chosen": 2}).to_string())?;
    let page = fs::read_to_string(write_pipeline(dir.path(), "cifar10")?)?;
    assert!(text(&page).contains("seed 2 chosen"));
    Ok(())
}

#[test]
fn synthetic_data_are_named_in_every_section_and_never_put_on_the_published_scale() -> Result {
    let dir = tempdir()?;
    RunFolder::search(0).on("synthetic-text").epochs(3).write(dir.path())?;
    let single = fs::read_to_string(write_run(dir.path())?)?;
    for page in [experiment_page("synthetic-images", 2)?.1, experiment_page("synthetic-text", 2)?.1, single] {
        let sections: Vec<&str> = page.split("<section").skip(1).collect();
        assert!(sections.len() >= 4);
        for section in sections {
            assert!(section.contains("synthetic data</span>"), "{}", &section[..200]);
        }
        let body = page.split("</style>").nth(1).ok_or("no body")?;
        assert!(!body.contains("own-line") && !body.contains("dot own"));
        assert!(!body.contains("the paper’s setting"));
    }
    let (_dir, real) = experiment_page("cifar10", 2)?;
    let body = real.split("</style>").nth(1).ok_or("no body")?;
    assert!(body.contains("own-line") && !body.contains("ynthetic data</"));
    Ok(())
}

#[test]
fn a_run_in_progress_says_how_far_it_is_and_reloads_and_a_finished_one_does_not() -> Result {
    let live = run_page(&RunFolder::search(1).stopped_after(13))?.1;
    assert!(live.contains("http-equiv=\"refresh\""));
    assert!(text(&live).contains("epoch 13 of 50"));
    let done = run_page(&RunFolder::search(1))?.1;
    assert!(!done.contains("http-equiv=\"refresh\"") && text(&done).contains("finished"));
    Ok(())
}

#[test]
fn every_setting_seed_version_commit_time_memory_and_machine_are_shown() -> Result {
    let (dir, page) = run_page(&RunFolder::training(7))?;
    let text = text(&page);
    let run: Value = serde_json::from_slice(&fs::read(dir.path().join("run.json"))?)?;
    for key in run["config"].as_object().ok_or("no config")?.keys().filter(|key| *key != "data") {
        assert!(text.contains(&key.replace('_', " ")), "{key}");
    }
    for shown in [
        "seed 7",
        "0123456789abcdef0123456789abcdef01234567",
        "AMD EPYC 7763 64-Core Processor",
        "2.5 GiB",
        "2 d 23 h",
        "cpu",
        "AVX2",
    ] {
        assert!(text.contains(shown), "{shown}");
    }
    Ok(())
}

#[test]
fn settings_that_differ_from_the_paper_are_said_beside_the_result() -> Result {
    let (_dir, page) = run_page(&RunFolder::training(0).epochs(200))?;
    assert!(text(&page).contains("Not the paper’s setting: epochs 200 (paper: 600)"));
    Ok(())
}

#[test]
fn pages_load_nothing_and_run_nothing() -> Result {
    for page in [experiment_page("ptb", 2)?.1, run_page(&RunFolder::search(0).stopped_after(2))?.1] {
        for forbidden in ["<script", "<link rel=\"stylesheet", "@import", "url(", " src=", "http://", "https://"] {
            let found = page
                .replace("http://www.w3.org/2000/svg", "")
                .find(forbidden)
                .map(|at| page[at.saturating_sub(40)..].chars().take(90).collect::<String>());
            assert_eq!(found, None, "{forbidden}");
        }
        assert!(page.contains("Content-Security-Policy"));
    }
    Ok(())
}

#[test]
fn markup_in_a_folders_files_is_shown_not_obeyed() -> Result {
    let dir = tempdir()?;
    let evil = "</title></style><script>alert(1)</script>&\"'<img src=x onerror=alert(1)>";
    RunFolder::search(0).epochs(2).write(dir.path())?;
    let mut run: Value = serde_json::from_slice(&fs::read(dir.path().join("run.json"))?)?;
    for key in ["task", "version", "commit", "device", "started"] {
        run[key] = json!(evil);
    }
    run["hardware"]["cpu"] = json!(evil);
    run["config"][evil] = json!({"x": evil});
    run[evil] = json!([evil]);
    fs::write(dir.path().join("run.json"), run.to_string())?;
    fs::write(dir.path().join("genotype.json"), format!("{{\"{}\": 1}}", "<b>&"))?;
    let page = fs::read_to_string(write_run(dir.path())?)?;
    xml::check(&page)?;
    assert!(!page.contains("<script") && !page.contains("<img"));
    assert!(text(&page).contains("<script>alert(1)</script>"));
    assert!(page.contains("Not everything could be read"), "the genotype that is none is named");

    let parent = tempdir()?;
    RunFolder::search(0).epochs(2).write(&parent.path().join("search-<b>&amp;"))?;
    let page = fs::read_to_string(write_pipeline(parent.path(), evil)?)?;
    xml::check(&page)?;
    assert!(!page.contains("<script") && !page.contains("<b>"));
    Ok(())
}

#[test]
fn any_beginning_of_a_runs_files_makes_a_page() -> Result {
    let whole = tempdir()?;
    RunFolder::search(0).epochs(2).write(whole.path())?;
    let files = ["run.json", "metrics.jsonl", "alphas.jsonl", "genotype.json", "summary.json"];
    let dir = tempdir()?;
    for file in files {
        let bytes = fs::read(whole.path().join(file))?;
        for part in [None, Some(0), Some(1), Some(bytes.len() / 3), Some(bytes.len() - 1), Some(bytes.len())] {
            match part {
                Some(length) => fs::write(dir.path().join(file), &bytes[..length])?,
                None => drop(fs::remove_file(dir.path().join(file))),
            }
            xml::check(&fs::read_to_string(write_run(dir.path())?)?)?;
        }
    }
    for name in ["search-0", "select-0", "train"] {
        fs::create_dir(dir.path().join(name))?;
        xml::check(&fs::read_to_string(write_pipeline(dir.path(), "cifar10")?)?)?;
    }
    Ok(())
}

#[test]
fn damaged_files_make_a_page() -> Result {
    let whole = tempdir()?;
    RunFolder::search(0).epochs(2).write(whole.path())?;
    let dir = tempdir()?;
    // Values that a careless reader would index, allocate or divide by.
    let values =
        ["-1", "1e999", "18446744073709551615", "null", "[]", "{}", "\"x\"", "[[]]", "[[1],[1,2]]", "1e-320", "true"];
    let mut state = 1u64;
    for file in ["run.json", "metrics.jsonl", "alphas.jsonl", "genotype.json", "summary.json"] {
        let bytes = fs::read(whole.path().join(file))?;
        for other in ["run.json", "metrics.jsonl", "alphas.jsonl", "genotype.json", "summary.json"] {
            fs::copy(whole.path().join(other), dir.path().join(other))?;
        }
        for _ in 0..25 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % bytes.len();
            // From a colon or comma on, one value is replaced: the damage is mostly well-formed JSON.
            let start = bytes[at..]
                .iter()
                .position(|byte| matches!(byte, b':' | b',' | b'['))
                .map_or(at, |offset| at + offset + 1);
            let end = bytes[start..]
                .iter()
                .position(|byte| matches!(byte, b',' | b'}' | b']' | b'\n'))
                .map_or(bytes.len(), |offset| start + offset);
            let value = values[(state >> 20) as usize % values.len()].as_bytes();
            fs::write(dir.path().join(file), [&bytes[..start], value, &bytes[end..]].concat())?;
            let page = fs::read_to_string(write_run(dir.path())?)?;
            xml::check(&page)?;
            let drawn = page.split("</style>").nth(1).ok_or("no body")?;
            assert!(!drawn.contains("NaN") && !drawn.contains("=\"inf"), "{file}: {}", String::from_utf8_lossy(value));
        }
    }
    Ok(())
}

#[test]
fn pages_are_replaced_whole_and_a_folder_that_is_not_there_is_named() -> Result {
    let (dir, first) = run_page(&RunFolder::search(0).stopped_after(1))?;
    RunFolder::search(0).write(dir.path())?;
    let path = write_run(dir.path())?;
    assert_eq!(path, dir.path().join(FILE));
    assert_ne!(fs::read_to_string(&path)?, first);
    let left: Vec<PathBuf> = fs::read_dir(dir.path())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::result::Result<_, _>>()?;
    assert!(left.iter().all(|path| !path.to_string_lossy().contains(".report")), "{left:?}");
    let missing = Path::new("no/such/folder");
    match write_run(missing) {
        Err(error @ ReportError::Read { .. }) => assert!(error.to_string().contains("no/such/folder"), "{error}"),
        other => panic!("{other:?}"),
    }
    Ok(())
}
