//! Names, the cache, and a hub on this machine that answers as the real one does.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const INDEX: &str = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
const FILES: [(&str, &str); 6] = [
    (CONFIG_FILE, "{}"),
    (INDEX_FILE, INDEX),
    ("model-1.safetensors", "one"),
    ("model-2.safetensors", "two"),
    (DEFINITION_FILE, "tokens"),
    ("README.md", "not needed"),
];

/// Serves `organisation/model` until the test's process ends.
fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    endpoint
}

fn answer(mut stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request = lines.next().unwrap().unwrap();
    let headers: Vec<String> = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .map(|line| line.to_ascii_lowercase())
        .collect();
    let has = |header: &str| headers.iter().any(|line| line == header);
    let ranged = has("range: bytes=0-0");
    let path = request.split(' ').nth(1).unwrap();
    let (status, body) =
        if path.contains("organisation/gated") && !has("authorization: bearer secret") {
            ("401 Unauthorized", "who are you".to_owned())
        } else {
            body(&path.replace("gated", "model"))
        };
    let length = body.len();
    let shown = if ranged { &body[..1] } else { &body };
    let reply = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\nContent-Range: bytes 0-0/{length}\r\n\
         ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n\r\n{shown}",
        shown.len(),
        path.replace('/', "-")
    );
    stream.write_all(reply.as_bytes()).unwrap();
}

fn body(path: &str) -> (&'static str, String) {
    let siblings = FILES.map(|(name, _)| serde_json::json!({"rfilename": name}));
    let info = serde_json::json!({"siblings": siblings, "sha": COMMIT});
    if path == "/api/models/organisation/model/revision/main" {
        return ("200 OK", info.to_string());
    }
    let prefix = format!("/organisation/model/resolve/{COMMIT}/");
    let name = path.strip_prefix(&prefix).unwrap_or_default();
    match FILES.iter().find(|(file, _)| *file == name) {
        Some((_, content)) => ("206 Partial Content", (*content).to_owned()),
        None => ("404 Not Found", "nothing".to_owned()),
    }
}

fn hub(cache: &Path, endpoint: &str, offline: bool) -> Hub {
    Hub {
        cache: Cache::new(cache.to_owned()),
        endpoint: Some(endpoint.into()),
        token: None,
        offline,
    }
}

/// Nothing listens there.
const NOWHERE: &str = "http://127.0.0.1:9";

#[test]
fn names_have_an_organisation_a_model_and_maybe_a_revision() {
    let name = |model: &str, revision: &str| {
        Some(HubName {
            model: model.into(),
            revision: revision.into(),
        })
    };
    assert_eq!(
        HubName::parse("Qwen/Qwen3-0.6B"),
        name("Qwen/Qwen3-0.6B", "main")
    );
    assert_eq!(HubName::parse("a/b@refs/pr/1"), name("a/b", "refs/pr/1"));
    for other in [
        "", "model", "a/b/c", "./model", "../model", "/tmp", "a/", "a/.b", "a/b c", "a/b@../x",
        "a/b@",
    ] {
        assert_eq!(HubName::parse(other), None, "{other}");
    }
}

#[test]
fn folders_are_themselves_and_other_things_are_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(resolve_model(path).unwrap(), folder.path());
    for missing in ["no-such-folder", "./no/such", &format!("{path}/none")] {
        let error = resolve_model(missing).unwrap_err();
        assert!(matches!(error, PolicyError::NotFound { .. }), "{error}");
    }
    let file = folder.path().join("model.gguf");
    fs::write(&file, "GGUF").unwrap();
    assert!(
        resolve_model(file.to_str().unwrap())
            .unwrap_err()
            .to_string()
            .contains("import")
    );
}

#[test]
fn a_model_is_fetched_with_its_shards_and_then_found_without_a_network() {
    let cache = tempfile::tempdir().unwrap();
    let name = HubName::parse("organisation/model").unwrap();
    let folder = hub(cache.path(), &serve(), false).folder(&name).unwrap();
    for (file, content) in &FILES[..5] {
        assert_eq!(fs::read_to_string(folder.join(file)).unwrap(), *content);
    }
    assert!(!folder.join("README.md").exists());
    assert_eq!(
        hub(cache.path(), NOWHERE, false).folder(&name).unwrap(),
        folder
    );
    assert_eq!(
        hub(cache.path(), NOWHERE, true).folder(&name).unwrap(),
        folder
    );
    fs::remove_file(folder.join("model-2.safetensors")).unwrap();
    assert!(hub(cache.path(), NOWHERE, true).folder(&name).is_err());
}

#[test]
fn a_gated_model_needs_a_token() {
    let cache = tempfile::tempdir().unwrap();
    let name = HubName::parse("organisation/gated").unwrap();
    let endpoint = serve();
    let asked = |token: Option<&str>| {
        let token = token.map(str::to_owned);
        let hub = Hub {
            token,
            ..hub(cache.path(), &endpoint, false)
        };
        hub.folder(&name)
    };
    for token in [None, Some("wrong")] {
        let error = asked(token).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN"), "{error}");
    }
    let folder = asked(Some("secret")).unwrap();
    assert!(folder.join(CONFIG_FILE).exists());
}

#[test]
fn failures_say_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let name = HubName::parse("organisation/model").unwrap();
    let message = |hub: Hub, name| hub.folder(name).unwrap_err().to_string();
    let unreachable = message(hub(cache.path(), NOWHERE, false), &name);
    assert!(unreachable.contains("cannot be reached") && unreachable.contains("local folder"));
    assert!(message(hub(cache.path(), NOWHERE, true), &name).contains("HF_HUB_OFFLINE"));
    let other = HubName::parse("organisation/other").unwrap();
    assert!(message(hub(cache.path(), &serve(), false), &other).contains("no such model"));
}

#[test]
fn an_index_names_only_files_of_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let index = folder.path().join(INDEX_FILE);
    for shard in [
        "../x.safetensors",
        "/x.safetensors",
        "x.bin",
        "C:\\x.safetensors",
        "..",
    ] {
        fs::write(
            &index,
            serde_json::json!({"weight_map": {"a": shard}}).to_string(),
        )
        .unwrap();
        assert!(shards(&index).is_err(), "{shard}");
    }
}
