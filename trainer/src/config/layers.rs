//! One configuration out of defaults, a TOML file and `key=value`.

use std::path::Path;

use config::{Config, File, FileFormat, ValueKind};
use losses::{AdvantageConfig, Estimator, LossConfig, ObjectiveConfig};
use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use super::keys::{check_key, check_keys};
use crate::TrainerError;

/// Merges defaults, settings of lowest rank, a file and overrides into one typed configuration.
pub(crate) fn load_layers<T: DeserializeOwned + Default + Serialize>(
    file: Option<&Path>,
    overrides: &[String],
    known: &[String],
    lowest: Vec<(String, ValueKind)>,
) -> Result<T, TrainerError> {
    let mut builder = Config::builder();
    for (key, value) in defaults::<T>()?.into_iter().chain(lowest) {
        builder = builder
            .set_default(key, value)
            .map_err(|e| config_error(&e))?;
    }
    if let Some(path) = file {
        let table = read_table(path)?;
        check_keys(&table, known, &path.display().to_string())?;
        let kept = without_replaced_types(table, overrides);
        builder = builder.add_source(File::from_str(&kept.to_string(), FileFormat::Toml));
    }
    for item in overrides {
        let (key, value) = parse_override(item)?;
        check_key(&key, known, "the command line")?;
        builder = builder
            .set_override(&key, value)
            .map_err(|e| config_error(&e))?;
    }
    let merged = builder.build().map_err(|e| config_error(&e))?;
    // By way of TOML's own types: `config` would round 8.5 to 9 and read "off" as false.
    let merged: Value = merged.try_deserialize().map_err(|e| config_error(&e))?;
    merged
        .try_into()
        .map_err(|error: toml::de::Error| TrainerError::Config {
            message: in_plain_words(error.to_string().trim_end()),
        })
}

/// The default configuration's tables, key by key: a default that a whole holds for one of its parts may differ from
/// the part's own, which serde would take where a file or the command line sets another key of that part.
///
/// Of a tagged table such as `loss`, the tag alone: the keys of the default type would be unknown to another.
fn defaults<T: Default + Serialize>() -> Result<Vec<(String, ValueKind)>, TrainerError> {
    let whole = Table::try_from(T::default()).map_err(|error| config_error(&error))?;
    let mut settings = Vec::new();
    for (section, part) in whole {
        let Value::Table(part) = part else { continue };
        let tag = ["type", "name"]
            .into_iter()
            .find(|tag| part.contains_key(*tag));
        for (key, value) in part {
            if tag.is_none_or(|tag| tag == key) {
                settings.push((format!("{section}.{key}"), into_kind(value)));
            }
        }
    }
    Ok(settings)
}

pub(super) fn config_error(error: &impl std::fmt::Display) -> TrainerError {
    TrainerError::Config {
        message: error.to_string(),
    }
}

fn read_table(path: &Path) -> Result<Table, TrainerError> {
    let text = std::fs::read_to_string(path).map_err(|source| TrainerError::Io {
        path: path.to_owned(),
        source,
    })?;
    text.parse::<Table>().map_err(|error| TrainerError::Config {
        message: {
            let place = error.span().map(|span| line_and_column(&text, span.start));
            let place = place.unwrap_or_default();
            let message = error.message().trim_end().replace('\n', "; ");
            format!("{}{place}: {message}", path.display())
        },
    })
}

/// Where a byte of a text stands, as `:line:column`.
fn line_and_column(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .map_or(0, |line| line.chars().count());
    format!(":{line}:{}", column + 1)
}

/// What serde says of a value, without Rust's names of types.
fn in_plain_words(message: &str) -> String {
    let mut message = message.replace('\n', " ");
    for (rust, plain) in [
        ("expected u64", "expected a whole number of 0 or more"),
        ("expected u32", "expected a whole number of 0 or more"),
        ("expected usize", "expected a whole number of 0 or more"),
        ("expected f64", "expected a number"),
        ("expected f32", "expected a number"),
        ("expected a boolean", "expected true or false"),
    ] {
        message = message.replace(rust, plain);
    }
    // `expected struct ReferenceKl in ...`: a table, whose keys are settings.
    if let Some(at) = message.find("expected struct ") {
        let after = at + "expected struct ".len();
        let end = message[after..].find(|c: char| !c.is_alphanumeric());
        let end = end.map_or(message.len(), |end| after + end);
        message.replace_range(at..end, "expected a table of settings, key.setting=value");
    }
    message
}

/// `key=value`, the value read as TOML and, where it is none, as a bare string.
fn parse_override(item: &str) -> Result<(String, config::Value), TrainerError> {
    let (key, text) = item.split_once('=').ok_or_else(|| TrainerError::Config {
        message: format!("'{item}' is not of the form key=value"),
    })?;
    let parsed = format!("value = {text}").parse::<Table>().ok();
    let value = parsed.and_then(|mut table| table.remove("value"));
    let value = value.unwrap_or_else(|| Value::String(text.to_owned()));
    let origin = "the command line".to_owned();
    let kind = into_kind(value);
    Ok((
        key.trim().to_owned(),
        config::Value::new(Some(&origin), kind),
    ))
}

fn into_kind(value: Value) -> ValueKind {
    let wrap = |value| config::Value::new(None, into_kind(value));
    match value {
        Value::String(text) => text.into(),
        Value::Integer(number) => number.into(),
        Value::Float(number) => number.into(),
        Value::Boolean(flag) => flag.into(),
        Value::Datetime(time) => time.to_string().into(),
        Value::Array(items) => ValueKind::Array(items.into_iter().map(wrap).collect()),
        Value::Table(table) => ValueKind::Table(
            table
                .into_iter()
                .map(|(key, value)| (key, wrap(value)))
                .collect(),
        ),
    }
}

/// Keys of the `loss` table that every type has.
const WHATEVER_THE_TYPE: [&str; 4] = [
    "aggregation",
    "constant_length_tokens",
    "reference_kl",
    "rollout_correction",
];

/// Drops the keys of a table whose `type` or `name` the command line changes: they belong to the old one.
fn without_replaced_types(mut table: Table, overrides: &[String]) -> Table {
    for (section, tag, new) in overrides.iter().filter_map(|item| replaced_type(item)) {
        let Some(Value::Table(fields)) = table.get_mut(&section) else {
            continue;
        };
        let old = fields.get(tag).and_then(Value::as_str).map(str::to_owned);
        let Some(old) = old.filter(|old| *old != new) else {
            continue;
        };
        fields.retain(|key, _| WHATEVER_THE_TYPE.contains(&key));
        // What the old type has by default was not chosen.
        let default = default_aggregation(&old);
        if default.is_some()
            && fields.get("aggregation").and_then(Value::as_str) == default.as_deref()
        {
            fields.remove("aggregation");
        }
        if section == "advantage"
            && let Some(Value::Table(rollout)) = table.get_mut("rollout")
            && rollout.get("filter_groups").and_then(Value::as_bool) == default_filter(&old)
        {
            rollout.remove("filter_groups");
        }
    }
    table
}

/// Whether an advantage of this type filters groups where nothing says so.
fn default_filter(advantage_type: &str) -> Option<bool> {
    let advantage = toml::from_str::<AdvantageConfig>(&format!("type = {advantage_type:?}"));
    Some(advantage.ok()?.compares_groups())
}

/// The section, the tag's key and its new value, where an override sets one: `loss.type=kl_cov`, or the whole table.
fn replaced_type(item: &str) -> Option<(String, &'static str, String)> {
    let (key, value) = parse_override(item).ok()?;
    for tag in ["type", "name"] {
        if let Some(section) = key.strip_suffix(tag).and_then(|key| key.strip_suffix('.')) {
            return Some((section.to_owned(), tag, value.into_string().ok()?));
        }
        if let ValueKind::Table(fields) = &value.kind
            && let Some(new) = fields.get(tag)
        {
            return Some((key, tag, new.clone().into_string().ok()?));
        }
    }
    None
}

/// The aggregation that a loss of this type has where none is set, as it is written.
fn default_aggregation(loss_type: &str) -> Option<String> {
    let loss: LossConfig = toml::from_str(&format!("type = {loss_type:?}")).ok()?;
    let default = ObjectiveConfig {
        loss,
        ..ObjectiveConfig::default()
    };
    let written = Value::try_from(default.aggregation()).ok()?;
    written.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use crate::TrainConfig;

    #[test]
    fn a_filter_that_another_advantage_has_by_default_does_not_stick() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        let filters = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|&setting| setting.into()).collect();
            let config = TrainConfig::load(Some(&file), &settings).unwrap();
            config.rollout.filter_groups
        };
        std::fs::write(
            &file,
            TrainConfig::load(None, &[]).unwrap().to_toml().unwrap(),
        )
        .unwrap();
        assert_eq!(filters(&[]), Some(true));
        assert_eq!(filters(&["advantage.type=gae"]), Some(false));
        assert_eq!(filters(&["advantage.type=rloo"]), Some(true));
        std::fs::write(
            &file,
            "[rollout]\nfilter_groups = false\n[advantage]\ntype = \"grpo\"",
        )
        .unwrap();
        assert_eq!(filters(&["advantage.type=rloo"]), Some(false));
    }

    #[test]
    fn a_setting_of_another_type_is_told_of_without_rusts_names() {
        let refused = |setting: &str| {
            let error = TrainConfig::load(None, &[setting.to_owned()]).unwrap_err();
            error.to_string()
        };
        for setting in [
            "steps=-5",
            "rollout=5",
            "loss.reference_kl=0.1",
            "checkpoint.keep=-1",
        ] {
            let said = refused(setting);
            let key = setting.split('=').next().unwrap_or_default();
            let last = key.rsplit('.').next().unwrap_or_default();
            assert!(said.contains(last), "{said}");
            for name in ["struct", "u64", "usize"] {
                assert!(!said.contains(name), "{said}");
            }
        }
    }
}
