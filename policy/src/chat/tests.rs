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
    refusal("{%- from 'other' import one %}");
    refusal("{% extends 'other' %}");
    // Where tags that load others are known, the parser panics at these.
    refusal("{% if false %}{% import 'b' as 7 %}{% endif %}");
    refusal("{{ '{%' }}{%+import 'b' as 7 %}");
    refusal("{# {% #}{% from 'b' import 7 %}");
    assert_eq!(rendered("{# {% include 'other' %} #}a"), "a");
    refusal("{{ messages.__class__.__mro__ }}");
}

/// Chains of everything that nests as it is parsed, and values that nest as they are made: each overflowed the stack.
#[test]
fn what_nests_deeply_has_a_stack_for_it() {
    let chains = [
        ("1", "+1", 60_000),
        ("a", ".b", 60_000),
        ("a", "|string", 15_000),
        ("", "not ", 30_000),
        ("", "-", 120_000),
        ("a", "()", 60_000),
        ("a", "[0]", 40_000),
        ("1", " and 1", 20_000),
        ("1", "**1", 40_000),
        ("1", "<1", 60_000),
    ];
    for (start, piece, times) in chains {
        let source = format!("{{{{ {start}{} 1 }}}}", piece.repeat(times));
        let _ = render(&source, &json!({}));
        let source = format!("{{{{ {start}{} }}}}", piece.repeat(times));
        let _ = render(&source, &json!({}));
    }
    let _ = render(
        &("{% if a %}".to_owned() + &"{% elif a %}".repeat(10_000) + "{% endif %}"),
        &json!({}),
    );
    let deep = "{% set ns = namespace(s=[1], t=[1]) %}{% for i in range(55000) %}{% set ns.s = [ns.s] %}{% set ns.t = {'a': ns.t} %}{% endfor %}";
    for use_of in [
        "{{ ns.s == ns.s[0] }}",
        "{{ ns.s in [ns.s[0]] }}",
        "{{ [ns.s, ns.s[0]]|sort|length }}",
        "{{ {ns.s: 1, ns.t: 2}|length }}",
        "{{ (ns.s ~ ns.t)|length }}",
        "{{ [ns.s]|join|length }}",
        "{{ ns.s|upper|length }}",
        "{{ ns.t < ns.t.a }}",
        "",
    ] {
        let _ = render(&format!("{deep}{use_of}"), &json!({}));
    }
    for use_of in [
        "{{ ns.s }}",
        "{{ ns.t|tojson }}",
        "{{ ns.s|pprint }}",
        "{{ ns.t|string }}",
        "{{ raise_exception(ns.s) }}",
    ] {
        refusal(&format!("{deep}{use_of}"));
    }
}

/// One text many times over is cheap to hold, and all memory to print: each was killed or aborted.
#[test]
fn much_of_little_is_refused() {
    let big = "{% set big = ['x' * 1000000] * 10000 %}";
    for use_of in [
        "{{ big }}",
        "{{ big|string }}",
        "{{ big|pprint }}",
        "{{ big|tojson }}",
        "{{ raise_exception(big) }}",
        "{{ {'a': big}|string }}",
        "{% set text %}{{ big }}{% endset %}",
        "{{ ''.join(big) }}",
        "{{ '{}'.format(big) }}",
        "{{ debug() }}",
        "{{ ('x' * 1000000).replace('x', 'y' * 1000000) }}",
        "{{ ('x' * 1000000).join(range(90000)) }}",
        "{{ ('{0}' * 30000).format('x' * 1000000) }}",
        "{{ '{:>1000000000}'.format('a') }}",
    ] {
        refusal(&format!("{big}{use_of}"));
    }
    let message = refusal("{{ raise_exception('x' * 1000000) }}");
    assert!(
        message.len() < 2 * MAX_ERROR_CHARACTERS,
        "{}",
        message.len()
    );
}

/// What no budget counts: equal lists that hold themselves twice, forty times over, differ in none of 2^40 places.
#[test]
fn work_that_no_budget_counts_is_given_up() {
    let twice = "{% set ns = namespace(s=[1], t=[1]) %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}";
    let message = render(&format!("{twice}{{{{ ns.s == ns.t }}}}"), &json!({}));
    let message = message.unwrap_err().to_string();
    assert!(message.contains("more than 5 s"), "{message}");
}

#[test]
fn python_s_methods_work_within_their_bounds() {
    let source = "{{ 'a-b-c'.replace('-', '+') }} {{ 'a-b-c'.replace('-', '+', 1) }} {{ ', '.join(['a', 1]) }} {{ '{} is {:>3}'.format('x', 5) }} {{ 'a'.join([]) }}";
    assert_eq!(rendered(source), "a+b+c a+b-c a, 1 x is   5 ");
}
