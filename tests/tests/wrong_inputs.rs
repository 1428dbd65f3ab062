//! Whatever a hurried person types or leaves lying about: exit 1 or 2, at most three lines on stderr that name the value and
//! the remedy, never a panic.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use darts_tests::program::{Ended, SMALL_TEXT_SEARCH, into_folder, run, small_search, xtask};

/// Runs a command line whose words are separated by single spaces; `@` stands for the folder.
fn typed(folder: &Path, line: &str) -> Ended {
    run(line.split(' ').map(|word| word.replace('@', &folder.display().to_string())))
}

#[track_caller]
fn refused(folder: &Path, code: i32, cases: &[(&str, &[&str])]) {
    for (line, named) in cases {
        println!("darts {line}");
        typed(folder, line).expect_refusal(code, named);
    }
}

#[test]
fn wrong_command_lines_exit_with_2() {
    let folder = tempfile::tempdir().unwrap();
    refused(
        folder.path(),
        2,
        &[
            ("serach cifar10", &["serach", "search"]),
            ("search", &["--out"]),
            ("search cifar10", &["--out"]),
            ("search cifar-10 --out @/x", &["cifar-10", "cifar10"]),
            ("search cifar10 --out", &["--out"]),
            ("search cifar10 --out @/x --epoch 3", &["--epoch", "--epochs"]),
            ("search cifar10 --out @/x --epochs many", &["many", "--epochs"]),
            ("search cifar10 --out @/x --epochs -3", &["-3"]),
            ("search cifar10 --out @/x --epochs 1e3", &["1e3"]),
            ("search cifar10 --out @/x --epochs 0", &["--epochs 0"]),
            ("search cifar10 --out @/x --epochs 99999999999999999999999", &["99999999999999999999999"]),
            ("search cifar10 --out @/x --batch-size 0", &["--batch-size 0"]),
            ("search cifar10 --out @/x --layers 0", &["--layers 0"]),
            ("search cifar10 --out @/x --layers 100000000", &["--layers 100000000"]),
            ("search cifar10 --out @/x --init-channels 0", &["--init-channels 0"]),
            ("search cifar10 --out @/x --nodes 0", &["--nodes 0"]),
            ("search cifar10 --out @/x --nodes 4000000000", &["--nodes 4000000000"]),
            ("search cifar10 --out @/x --learning-rate nan", &["--learning-rate"]),
            ("search cifar10 --out @/x --learning-rate=-0.1", &["--learning-rate"]),
            ("search cifar10 --out @/x --learning-rate inf", &["--learning-rate"]),
            ("search cifar10 --out @/x --learning-rate 0,025", &["0,025"]),
            ("search cifar10 --out @/x --momentum 1.5", &["--momentum"]),
            ("search cifar10 --out @/x --order third", &["third", "first", "second"]),
            ("search cifar10 --out @/x --preset papper", &["papper", "paper"]),
            ("search cifar10 --out @/x --device gpu", &["gpu", "cpu"]),
            ("search cifar10 --out @/x --threads 0", &["--threads"]),
            ("search cifar10 --out @/x --threads 1000000", &["--threads"]),
            ("search cifar10 --out @/x --seed 1.5", &["1.5"]),
            ("search cifar10 --out @/x --train-limit 0", &["--train-limit 0"]),
            ("search cifar10 --out @/x --image-size 64", &["--image-size"]),
            ("search synthetic-images --out @/x --image-size 1000000", &["--image-size"]),
            ("search image-folder --out @/x", &["--data"]),
            ("search image-folder --out @/x --data @ --train-images 5", &["--train-images"]),
            ("train imagenet --out @/x --genotype DARTS_V2 --selection", &["imagenet", "--selection"]),
            ("train imagenet --out @/x --genotype DARTS_V2 --resize 100", &["--resize 100", "224"]),
            ("train imagenet --out @/x --genotype DARTS_V2 --least-area 0", &["--least-area 0"]),
            ("train imagenet --out @/x --genotype DARTS_V2 --accumulate 129", &["--accumulate 129", "128"]),
            ("train imagenet --out @/x --genotype DARTS_V2 --learning-rate-min 0.1", &["--schedule cosine"]),
            ("train imagenet --out @/x --genotype DARTS_V2 --schedule step", &["step", "cosine", "exponential"]),
            ("train cifar10 --out @/x --genotype DARTS_V2 --decay 0.9", &["--decay", "exponential"]),
            ("train cifar10 --out @/x --genotype DARTS_V2 --preset tiny-imagenet", &["tiny-imagenet", "cifar10"]),
            ("train cifar10 --out @/x --genotype DARTS_V2 --least-area 0.5", &["--least-area"]),
            ("search text --out @/x", &["--data"]),
            ("search ptb --out @/x --units 0", &["--units 0"]),
            ("search ptb --out @/x --bptt 0", &["--bptt 0"]),
            ("search ptb --out @/x --batch-size 1", &["--batch-size 1"]),
            ("search ptb --out @/x --dropout 1", &["--dropout 1"]),
            ("search ptb --out @/x --dropout-x=-0.1", &["--dropout-x"]),
            ("search ptb --out @/x --init-channels 16", &["--init-channels", "--units"]),
            ("search ptb --out @/x --momentum 0.9", &["--momentum"]),
            ("search ptb --out @/x --sample", &["--sample", "wikitext2"]),
            ("search ptb --out @/x --tokenizer bpe:3", &["bpe:3", "258"]),
            ("search ptb --out @/x --tokenizer letters", &["letters", "words"]),
            ("search cifar10 --out @/x --units 300", &["--units", "--init-channels"]),
            ("search cifar10 --out @/x --tokenizer words", &["--tokenizer"]),
            ("search synthetic-text --out @/x --vocabulary 1", &["--vocabulary 1"]),
            ("search synthetic-text --out @/x --predictability 1.5", &["--predictability"]),
            ("train wikitext2 --out @/x --genotype DARTS_V2 --cutout 16", &["--cutout"]),
            ("train ptb --out @/x --genotype DARTS_V2 --nonmono 0", &["--nonmono 0"]),
            ("train cifar10 --out @/x", &["--genotype"]),
            ("train cifar10 --out @/x --genotype DARTS_V2 --drop-path-prob 1.5", &["--drop-path-prob"]),
            ("train cifar10 --out @/x --genotype DARTS_V2 --auxiliary=maybe", &["maybe"]),
            ("train cifar10 --out @/x --genotype DARTS_V2 --held-out 1", &["--held-out"]),
            ("eval", &["RUN_DIR"]),
            ("eval @ --split train", &["train", "valid", "test"]),
            ("predict @", &["IMAGES", "--prompt"]),
            ("plot DARTS_V2", &["--output"]),
            ("plot DARTS_V2 -o @/cell.jpeg", &["cell.jpeg", ".png"]),
            ("plot DARTS_V2 -o @/cell", &[".svg"]),
            ("plot DARTS_V2 -o @/cell.png --scale 1e9", &["--scale"]),
            ("profile DARTS_V2", &["--task"]),
            ("profile DARTS_V2 --task mnist", &["mnist", "cifar10"]),
            ("profile DARTS_V2 --task cifar10 --layers 0", &["--layers 0"]),
            ("profile DARTS_V2 --task ptb --layers 3", &["--layers", "--units"]),
            ("profile supernet --task wikitext2", &["wikitext2", "ptb"]),
            ("profile DARTS_V2 --task cifar10 --init-channels 18446744073709551615", &["--init-channels"]),
            ("verify --only rnn", &["rnn"]),
        ],
    );
    assert!(!folder.path().join("x").exists(), "a wrong command line must leave nothing behind");
}

#[test]
fn a_gpu_is_refused_in_one_line_where_the_build_or_the_machine_has_none() {
    let folder = tempfile::tempdir().unwrap();
    refused(
        folder.path(),
        1,
        &[
            (
                "search synthetic-images --out @/x --device cuda",
                &["cuda:0", "this build computes on the processor only"],
            ),
            (
                "search synthetic-text --out @/x --device cuda:1",
                &["cuda:1", "this build computes on the processor only"],
            ),
            ("verify --device cuda", &["cuda:0", "this build computes on the processor only"]),
        ],
    );
    assert!(!folder.path().join("x").exists());
    let has_driver = !typed(folder.path(), "verify --device cuda").stderr.contains("this machine has no NVIDIA driver");
    if has_driver {
        println!("not tried: what a task says where there is no driver, because this machine has one");
        return;
    }
    let mut task = xtask(["reproduce-cifar", "--quick", "--device", "cuda"]);
    let ended = Ended::from(task.env_remove("DARTS_BIN").output().unwrap());
    ended.expect_refusal(1, &["--device cuda: no NVIDIA driver was found", "--device cpu"]);
}

#[test]
fn genotypes_that_are_none_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("empty.json", b"");
    write("broken.json", b"{\"normal\": [[\"sep_conv_3x3\", 0]");
    write("other.json", b"{\"a\": 1}");
    write("unknown.json", br#"{"normal":[["sep_conv_9x9",0],["skip_connect",1]],"normal_concat":[2],"reduce":[["skip_connect",0],["skip_connect",1]],"reduce_concat":[2]}"#);
    write("ahead.json", br#"{"normal":[["skip_connect",7],["skip_connect",1]],"normal_concat":[2],"reduce":[["skip_connect",0],["skip_connect",1]],"reduce_concat":[2]}"#);
    write("bytes.json", &[0xff, 0xfe, 0x00, 0x80]);
    write("recurrent.json", br#"{"recurrent":[["relu",0]],"concat":[1]}"#);
    fs::create_dir(folder.path().join("nothing")).unwrap();
    for (genotype, named) in [
        ("DARTS_V3", "DARTS_V"),
        ("@/missing.json", "missing.json"),
        ("@/empty.json", "empty.json"),
        ("@/broken.json", "broken.json"),
        ("@/other.json", "other.json"),
        ("@/unknown.json", "sep_conv_9x9"),
        ("@/ahead.json", "ahead.json"),
        ("@/bytes.json", "bytes.json"),
        ("@/nothing", "nothing"),
    ] {
        refused(
            folder.path(),
            1,
            &[
                (&format!("train synthetic-images --out @/x --genotype {genotype}"), &[named]),
                (&format!("plot {genotype} -o @/cell.svg"), &[named]),
                (&format!("profile {genotype} --task cifar10"), &[named]),
            ],
        );
    }
    typed(folder.path(), "train cifar10 --out @/x --genotype @/recurrent.json").expect_refusal(1, &["recurrent"]);
    typed(folder.path(), "train ptb --out @/x --genotype NASNet").expect_refusal(1, &["NASNet"]);
    assert!(!folder.path().join("x").exists() && !folder.path().join("cell.svg").exists());
}

#[test]
fn data_that_is_missing_or_wrong_is_refused_by_path() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for dir in ["empty", "one/train/cat", "text/cat", "text/dog", "cifar/cifar-10-batches-bin"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    fs::write(at("text/cat/a.png"), "no image").unwrap();
    fs::write(at("text/dog/a.png"), "no image").unwrap();
    fs::write(at("a-file"), "no folder").unwrap();
    fs::write(at("book.txt"), "a line of words\n".repeat(20)).unwrap();
    fs::write(at("broken.json"), "{").unwrap();
    fs::write(at("latin1.txt"), ["ten lines\n".repeat(2).as_bytes(), b"a \xe4\n"].concat()).unwrap();
    fs::write(at("cifar/cifar-10-batches-bin/data_batch_1.bin"), "short").unwrap();
    refused(
        folder.path(),
        1,
        &[
            ("search cifar10 --out @/x --data @/missing", &["missing", "fetch cifar10"]),
            ("search cifar10 --out @/x --data @/empty", &["empty", "fetch cifar10"]),
            ("search cifar10 --out @/x --data @/a-file", &["a-file"]),
            ("search cifar10 --out @/x --data @/cifar", &["cifar-10-batches-bin"]),
            ("search image-folder --out @/x --data @/missing", &["missing"]),
            ("search image-folder --out @/x --data @/empty", &["empty"]),
            ("search image-folder --out @/x --data @/a-file", &["a-file"]),
            ("search image-folder --out @/x --data @/one", &["one"]),
            ("search image-folder --out @/x --data @/text", &["text"]),
            ("train cifar10 --out @/x --genotype DARTS_V2 --data @/missing", &["missing"]),
            ("train imagenet --out @/x --genotype DARTS_V2 --data @/missing", &["missing", "fetch imagenet"]),
            ("search ptb --out @/x --data @/missing", &["missing", "fetch ptb"]),
            ("train wikitext2 --out @/x --genotype DARTS_V2 --data @/empty", &["empty", "fetch wikitext-2"]),
            ("train wikitext2 --out @/x --genotype DARTS_V2 --sample --data @/empty", &["empty"]),
            ("search text --out @/x --data @/empty", &["empty", "train.txt"]),
            ("search text --out @/x --data @/a-file", &["a-file", "10 lines"]),
            ("search text --out @/x --data @/latin1.txt", &["latin1.txt", "offset 22", "UTF-8"]),
            ("train text --out @/x --genotype DARTS_V2 --data @/latin1.txt --tokenizer @/none.json", &["latin1.txt"]),
            ("train text --out @/x --genotype DARTS_V2 --data @/book.txt --tokenizer @/none.json", &["none.json"]),
            ("train text --out @/x --genotype DARTS_V2 --data @/book.txt --tokenizer @/broken.json", &["broken.json"]),
        ],
    );
}

#[test]
fn run_folders_that_cannot_be_used_are_refused_by_path() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "in the way").unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    for (out, named) in [("file", "file"), ("file/below", "file")] {
        run(small_search(&folder.path().join(out), &[])).expect_refusal(1, &[named]);
    }
    refused(
        folder.path(),
        1,
        &[
            ("eval @/missing", &["missing"]),
            ("eval @/empty", &["empty"]),
            ("eval @/file", &["file"]),
            ("predict @/missing @/file", &["missing"]),
            ("derive @/missing", &["missing"]),
            ("derive @/empty", &["empty"]),
            ("plot @/empty -o @/cell.svg", &["empty"]),
            ("plot DARTS_V2 -o @/nowhere/cell.svg", &["nowhere"]),
            ("plot DARTS_V2 -o @/empty/../file/cell.png", &["cell.png"]),
            ("verify --golden @/missing", &["missing"]),
            ("verify --golden @/empty", &["empty"]),
        ],
    );
}

#[test]
fn sizes_that_do_not_fit_each_other_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x");
    // A split smaller than one batch.
    let ended = run(small_search(&out, &["--train-limit=10"]));
    ended.expect_refusal(1, &["batch"]);
    // More memory than any machine has.
    let ended = run(small_search(&out, &["--init-channels=1024", "--layers=200", "--batch-size=48", "--image-size=8"]));
    ended.expect_refusal(1, &["memory"]);
    let huge = ["--units=16384", "--batch-size=48", "--bptt=100"];
    run(into_folder(SMALL_TEXT_SEARCH, &out, &huge)).expect_refusal(1, &["memory", "--units"]);
    // Columns without room for a step.
    run(into_folder(SMALL_TEXT_SEARCH, &out, &["--batch-size=300"])).expect_refusal(2, &["--batch-size 300", "133"]);
}

#[test]
#[cfg(unix)]
fn arguments_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStrExt as _;

    let bytes = OsStr::from_bytes(b"\xff\xfe");
    run([OsStr::new("plot"), bytes, OsStr::new("-o"), OsStr::new("x.svg")]).expect_refusal(2, &["UTF-8"]);
    run([OsStr::new("eval"), bytes]).expect_refusal(1, &["run"]);
}

#[test]
fn a_damaged_golden_file_fails_verification() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cifar_x.safetensors"), [8, 0, 0, 0, 0, 0, 0, 0, b'{', b'}']).unwrap();
    let ended = typed(folder.path(), "verify --golden @");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("cifar_x") || ended.stderr.contains("cifar_x"), "{ended:?}");
}
