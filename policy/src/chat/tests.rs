//! Templates that misbehave, and Jinja as transformers sets it up.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::*;

/// The promise for hostile templates on two cores, with room for a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(5);

fn render(source: &str, arguments: &Value) -> Result<String, PolicyError> {
    let arguments = arguments.as_object().cloned().unwrap_or_default();
    let special = Map::from_iter([("eos_token".to_owned(), json!("</s>"))]);
    let messages = [
        Message::new("user", "Hi"),
        Message::new("assistant", "Hello"),
    ];
    ChatTemplate::new(source, &special)?.render(&messages, true, &arguments)
}

fn rendered(source: &str) -> String {
    render(source, &json!({})).unwrap()
}

fn refusal(source: &str) -> String {
    let start = Instant::now();
    let message = render(source, &json!({})).unwrap_err().to_string();
    assert!(
        start.elapsed() < TIME_LIMIT,
        "{source}: {:?}",
        start.elapsed()
    );
    assert!(message.starts_with("chat template: "), "{message}");
    message
}

#[test]
fn blocks_leave_no_blank_lines_and_the_last_newline_goes() {
    let source = "{% for m in messages %}\n    {% if true %}\n{{ m.role }}: {{ m['content'] }}\n    {% endif %}\n{% endfor %}\n{{ eos_token }}\n";
    assert_eq!(rendered(source), "user: Hi\nassistant: Hello\n</s>");
}

#[test]
fn variables_are_those_of_transformers() {
    let source = "{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }} {{ bos_token is defined }} {{ thinking }}";
    let text = render(source, &json!({"thinking": false})).unwrap();
    assert_eq!(text, "True True True False False");
    let tools = render("{{ tools[0].name }}", &json!({"tools": [{"name": "add"}]})).unwrap();
    assert_eq!(tools, "add");
}

#[test]
fn python_methods_slices_namespaces_and_loop_controls_work() {
    let source = "{%- set ns = namespace(n=0) -%}{%- for m in messages[::-1] -%}{%- set ns.n = ns.n + 1 -%}{{ m.content.upper()[1:] }}{%- break -%}{%- endfor -%}{{ ns.n }} {{ ' a</think>b'.split('</think>')[-1].strip() }} {{ 'x'.startswith('x') }} {{ {'a': 1}.items()|list }}";
    assert_eq!(rendered(source), "ELLO1 b True [('a', 1)]");
}

#[test]
fn tojson_writes_what_json_dumps_writes() {
    let value =
        json!({"v": {"name": "é<\"&'\n\u{1f642}", "list": [1, 2.0, true, null, []], "empty": {}}});
    let compact = render("{{ v | tojson }}", &value).unwrap();
    let expected =
        "{\"name\": \"é<\\\"&'\\n🙂\", \"list\": [1, 2.0, true, null, []], \"empty\": {}}";
    assert_eq!(compact, expected);
    let ascii = render("{{ v.name | tojson(ensure_ascii=true) }}", &value).unwrap();
    assert_eq!(ascii, "\"\\u00e9<\\\"&'\\n\\ud83d\\ude42\"");
    let lines = render(
        "{{ {'b': [1], 'a': {}} | tojson(indent=2, sort_keys=true) }}",
        &value,
    );
    assert_eq!(lines.unwrap(), "{\n  \"a\": {},\n  \"b\": [\n    1\n  ]\n}");
    let tight = render(
        "{{ [1, {'a': 2}] | tojson(separators=(',', ':')) }}",
        &value,
    )
    .unwrap();
    assert_eq!(tight, "[1,{\"a\":2}]");
}

#[test]
fn generation_tags_leave_no_trace() {
    let source = "{% for m in messages %}{% generation %}{{ m.content }}{%- endgeneration -%} {% endfor %}{% if add_generation_prompt %}!{% endif %}";
    assert_eq!(rendered(source), "HiHello!");
}

#[test]
fn the_clock_can_be_fixed() {
    let mut template = ChatTemplate::new("{{ strftime_now('%d %b %Y') }}", &Map::new()).unwrap();
    template.set_clock(Some(1_721_952_000));
    let text = template.render::<Message>(&[], false, &Map::new()).unwrap();
    assert_eq!(text, "26 Jul 2024");
    assert!(refusal("{{ strftime_now('%Q%Q%!') }}").contains("unknown format"));
}

#[test]
fn a_template_may_refuse_the_conversation() {
    let message = refusal("\n{{ raise_exception('roles must alternate') }}");
    assert!(
        message.contains("roles must alternate") && message.contains(":2"),
        "{message}"
    );
}

#[test]
fn a_template_that_does_not_parse_names_its_line() {
    assert!(refusal("a\n{% if %}").contains(":2"));
    assert!(refusal(&("{{ ".to_owned() + &"(".repeat(100_000))).contains("syntax error"));
    assert!(refusal(&" ".repeat(MAX_SOURCE_BYTES + 1)).contains("bytes"));
}

#[test]
fn endless_work_runs_out_of_fuel() {
    let sources = [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{{ 'x' * 1000000000 }}",
        "{% set ns = namespace(s='xx') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% for i in range(10000000000) %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
        "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | string }}",
        "{% set ns = namespace(s='x') %}{% for i in range(5000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s | tojson }}",
    ];
    for source in sources {
        refusal(source);
    }
}

#[test]
fn long_outputs_are_refused() {
    let message = refusal("{% for i in range(5000) %}{{ 'x' * 1000 }}{% endfor %}");
    assert!(message.contains("longer than"), "{message}");
}

#[test]
fn other_files_are_out_of_reach() {
    refusal("{% include '/etc/passwd' %}");
    refusal("{% import 'other' as other %}");
    refusal("{{ messages.__class__.__mro__ }}");
}
