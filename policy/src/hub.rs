//! From what a user names to a model folder: a local one, or one of the Hugging Face hub.

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{ApiBuilder, ApiError, ApiRepo},
};

use crate::{
    PolicyError,
    tokenizer::{DEFINITION_FILE, TOKENIZER_FILES},
    weights::{INDEX_FILE, SINGLE_FILE as WEIGHTS_FILE, shards},
};

const CONFIG_FILE: &str = "config.json";

/// The folder of a model: `name_or_path` itself where it is a folder, else the hub's `ORGANISATION/MODEL` or
/// `ORGANISATION/MODEL@REVISION`, fetched into hf-hub's cache.
///
/// `HF_HOME` and `HF_ENDPOINT` are followed as by hf-hub, and `HF_TOKEN` comes before the token that `HF_HOME` keeps. With `HF_HUB_OFFLINE` set, or without a network, a model
/// that was fetched before is taken from the cache.
///
/// # Errors
/// Something that is neither a folder nor a hub's name, a model without weights in safetensors files, or a hub that
/// cannot be reached.
pub fn resolve_model(name_or_path: &str) -> Result<PathBuf, PolicyError> {
    let path = Path::new(name_or_path);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    let Some(name) = HubName::parse(name_or_path).filter(|_| !path.exists()) else {
        let what = match path.extension() {
            Some(extension) if extension == "gguf" && path.exists() => {
                "model folder; import the GGUF file first"
            }
            _ => "model folder, and not a hub's name of the form organisation/model",
        };
        return Err(PolicyError::NotFound {
            path: path.to_owned(),
            what: what.into(),
        });
    };
    let offline = env::var("HF_HUB_OFFLINE").is_ok_and(|value| is_true(&value));
    let hub = Hub {
        cache: Cache::from_env(),
        endpoint: env::var("HF_ENDPOINT").ok(),
        token: env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()),
        offline,
    };
    hub.folder(&name)
}

/// As `huggingface_hub` reads its switches.
fn is_true(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "1" | "on" | "yes" | "true"
    )
}

/// The revision of a name that gives none.
pub(crate) const MAIN_REVISION: &str = "main";

/// A model of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubName {
    pub(crate) model: String,
    pub(crate) revision: String,
}

impl HubName {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (model, revision) = name.split_once('@').unwrap_or((name, MAIN_REVISION));
        let (organisation, short) = model.split_once('/')?;
        let is_part = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
        };
        let is_name = is_part(organisation) && is_part(short) && revision.split('/').all(is_part);
        is_name.then(|| Self {
            model: model.into(),
            revision: revision.into(),
        })
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.model.clone(), RepoType::Model, revision.into())
    }

    fn error(&self, message: impl Into<String>) -> PolicyError {
        PolicyError::Hub {
            name: self.model.clone(),
            message: message.into(),
        }
    }
}

struct Hub {
    cache: Cache,
    endpoint: Option<String>,
    /// Who asks, where that is not what the cache's own file says.
    token: Option<String>,
    offline: bool,
}

impl Hub {
    fn folder(&self, name: &HubName) -> Result<PathBuf, PolicyError> {
        if self.offline {
            return self.cached(name)?.ok_or_else(|| {
                name.error(
                    "HF_HUB_OFFLINE is set and the model is not in the cache; give a local folder",
                )
            });
        }
        match self.fetch(name) {
            Err(Failure::Unreachable(message)) => self.cached(name)?.ok_or_else(|| {
                name.error(format!(
                    "the hub cannot be reached ({message}); give a local folder instead"
                ))
            }),
            Err(Failure::Other(error)) => Err(error),
            Ok(folder) => Ok(folder),
        }
    }

    /// The folder in the cache, if it has all that a model needs.
    fn cached(&self, name: &HubName) -> Result<Option<PathBuf>, PolicyError> {
        let repo = self.cache.repo(name.repo(&name.revision));
        let Some(config) = repo.get(CONFIG_FILE) else {
            return Ok(None);
        };
        let weights = match (repo.get(WEIGHTS_FILE), repo.get(INDEX_FILE)) {
            (Some(_), _) => BTreeSet::new(),
            (None, Some(index)) => shards(&index)?,
            (None, None) => return Ok(None),
        };
        let is_whole = weights.iter().all(|shard| repo.get(shard).is_some());
        Ok(config.parent().filter(|_| is_whole).map(Path::to_owned))
    }

    fn fetch(&self, name: &HubName) -> Result<PathBuf, Failure> {
        let mut builder = ApiBuilder::from_cache(self.cache.clone());
        if let Some(token) = &self.token {
            builder = builder.with_token(Some(token.clone()));
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let api = builder.build().map_err(|error| failure(name, &error))?;
        let info = api.repo(name.repo(&name.revision)).info();
        let info = info.map_err(|error| failure(name, &error))?;
        // By commit, so that a model which changes meanwhile is not mixed.
        let repo = api.repo(name.repo(&info.sha));
        let files: BTreeSet<&str> = info
            .siblings
            .iter()
            .map(|file| file.rfilename.as_str())
            .collect();
        let config = get(name, &repo, CONFIG_FILE)?;
        for file in TOKENIZER_FILES
            .into_iter()
            .chain(["generation_config.json"])
        {
            // The older forms of a vocabulary say nothing that the definition does not.
            let is_older = matches!(file, "vocab.json" | "merges.txt" | "tokenizer.model");
            if files.contains(file) && !(is_older && files.contains(DEFINITION_FILE)) {
                get(name, &repo, file)?;
            }
        }
        fetch_weights(name, &repo, &files)?;
        let reference = self
            .cache
            .repo(name.repo(&name.revision))
            .create_ref(&info.sha);
        reference.map_err(|error| Failure::Other(name.error(format!("the cache: {error}"))))?;
        Ok(config.parent().map(Path::to_owned).unwrap_or_default())
    }
}

/// Why a fetch failed: with no network the cache may still serve.
#[derive(Debug)]
enum Failure {
    Unreachable(String),
    Other(PolicyError),
}

fn fetch_weights(name: &HubName, repo: &ApiRepo, files: &BTreeSet<&str>) -> Result<(), Failure> {
    if files.contains(WEIGHTS_FILE) {
        return get(name, repo, WEIGHTS_FILE).map(drop);
    }
    if !files.contains(INDEX_FILE) {
        let message = format!("has neither {WEIGHTS_FILE} nor {INDEX_FILE}");
        return Err(Failure::Other(name.error(message)));
    }
    let index = get(name, repo, INDEX_FILE)?;
    for shard in shards(&index).map_err(Failure::Other)? {
        get(name, repo, &shard)?;
    }
    Ok(())
}

fn get(name: &HubName, repo: &ApiRepo, file: &str) -> Result<PathBuf, Failure> {
    tracing::info!(model = name.model, file, "fetching");
    repo.get(file).map_err(|error| failure(name, &error))
}

fn failure(name: &HubName, error: &ApiError) -> Failure {
    let ApiError::RequestError(request) = error else {
        return Failure::Other(name.error(format!("the hub's answer: {error}")));
    };
    match status(&request.to_string()) {
        Some(401 | 403) => {
            let message = "the hub refuses it: a model that is private, gated or does not exist; set HF_TOKEN to a token that may \
                           read it, after asking for access on its page where it is gated";
            Failure::Other(name.error(message))
        }
        Some(404) => Failure::Other(name.error("the hub has no such model, revision or file")),
        Some(code @ ..500) => {
            Failure::Other(name.error(format!("the hub answers with status {code}")))
        }
        _ => Failure::Unreachable(request.to_string()),
    }
}

/// The status of an answer that is an error; hf-hub does not re-export the type that has it.
fn status(message: &str) -> Option<u16> {
    message.strip_prefix("http status: ")?.trim().parse().ok()
}

#[cfg(test)]
mod tests;
