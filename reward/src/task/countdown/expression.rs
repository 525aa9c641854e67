//! Expressions of integers, parsed without recursion and evaluated exactly.

use num_rational::Ratio;

use super::Operation;

/// A longer expression is not read.
pub(super) const MAX_EXPRESSION_BYTES: usize = 1024;
/// More digits than this are no number that was given.
const MAX_NUMBER_DIGITS: usize = 18;

/// A part of an expression in postfix order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    Number(i64),
    Operation(Operation),
}

/// An expression in postfix order: operands stand before their operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expression {
    pub(super) items: Vec<Item>,
}

enum Pending {
    Operation(Operation),
    Bracket,
}

impl Expression {
    /// Parses `(3+7)*25-50`: integers, the four operations and round brackets, without signs.
    ///
    /// The stack is explicit (E. W. Dijkstra's shunting yard), so that nesting costs no call stack.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_EXPRESSION_BYTES {
            return None;
        }
        let mut parser = Parser {
            items: Vec::new(),
            pending: Vec::new(),
            wants_operand: true,
        };
        let mut rest = text.trim_start();
        while let Some(next) = rest.chars().next() {
            let length = parser.read(rest, next)?;
            rest = rest[length..].trim_start();
        }
        parser.finish()
    }

    /// The numbers in the expression, from left to right.
    pub(super) fn numbers(&self) -> impl Iterator<Item = i64> {
        self.items.iter().filter_map(|item| match item {
            Item::Number(number) => Some(*number),
            Item::Operation(_) => None,
        })
    }

    /// The exact value; `None` for a division by zero or beyond 128 bits.
    pub(super) fn value(&self) -> Option<Ratio<i128>> {
        let mut stack = Vec::new();
        for item in &self.items {
            let value = match item {
                Item::Number(number) => Ratio::from(i128::from(*number)),
                Item::Operation(operation) => {
                    let right = stack.pop()?;
                    let left = stack.pop()?;
                    operation.apply_exact(&left, &right)?
                }
            };
            stack.push(value);
        }
        stack.pop()
    }
}

struct Parser {
    items: Vec<Item>,
    pending: Vec<Pending>,
    wants_operand: bool,
}

impl Parser {
    /// Reads one token that begins with `next`; returns its length in bytes.
    fn read(&mut self, rest: &str, next: char) -> Option<usize> {
        if next.is_ascii_digit() {
            return self.number(rest);
        }
        match next {
            '(' if self.wants_operand => self.pending.push(Pending::Bracket),
            ')' if !self.wants_operand => self.close()?,
            _ if !self.wants_operand => self.operation(Operation::from_symbol(next)?),
            _ => return None,
        }
        Some(next.len_utf8())
    }

    fn number(&mut self, rest: &str) -> Option<usize> {
        let length = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        if !self.wants_operand || length > MAX_NUMBER_DIGITS {
            return None;
        }
        self.items.push(Item::Number(rest[..length].parse().ok()?));
        self.wants_operand = false;
        Some(length)
    }

    fn operation(&mut self, operation: Operation) {
        while let Some(Pending::Operation(top)) = self.pending.last() {
            if top.precedence() < operation.precedence() {
                break;
            }
            self.items.push(Item::Operation(*top));
            self.pending.pop();
        }
        self.pending.push(Pending::Operation(operation));
        self.wants_operand = true;
    }

    fn close(&mut self) -> Option<()> {
        while let Pending::Operation(operation) = self.pending.pop()? {
            self.items.push(Item::Operation(operation));
        }
        Some(())
    }

    fn finish(mut self) -> Option<Expression> {
        while let Some(pending) = self.pending.pop() {
            match pending {
                Pending::Operation(operation) => self.items.push(Item::Operation(operation)),
                Pending::Bracket => return None,
            }
        }
        (!self.wants_operand).then_some(Expression { items: self.items })
    }
}

/// An expression's text and how tightly its outermost operation binds, to put brackets by.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) value: i64,
    text: String,
    precedence: u8,
}

impl Written {
    pub(super) fn number(value: i64) -> Self {
        Self {
            value,
            text: value.to_string(),
            precedence: u8::MAX,
        }
    }

    /// `left operation right`, with the brackets it needs; `value` is its value.
    pub(super) fn join(operation: Operation, left: &Self, right: &Self, value: i64) -> Self {
        let precedence = operation.precedence();
        let left = left.bracketed(left.precedence < precedence);
        let right = right.bracketed(right.precedence <= precedence);
        Self {
            value,
            text: format!("{left}{}{right}", operation.symbol()),
            precedence,
        }
    }

    fn bracketed(&self, needed: bool) -> String {
        if needed {
            format!("({})", self.text)
        } else {
            self.text.clone()
        }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str) -> Option<Ratio<i128>> {
        Expression::parse(text)?.value()
    }

    #[test]
    fn values_are_exact() {
        for (text, numerator, denominator) in [
            ("7", 7, 1),
            ("50*3+25+3", 178, 1),
            ("2+3*4", 14, 1),
            ("(2+3)*4", 20, 1),
            ("10-3-2", 5, 1),
            ("10-(3-2)", 9, 1),
            ("12/2/3", 2, 1),
            ("1/3*3", 1, 1),
            (" ( 1 / 3 ) ", 1, 3),
            ("8/(3-8/3)", 24, 1),
        ] {
            assert_eq!(
                value(text),
                Some(Ratio::new(numerator, denominator)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for text in [
            "",
            "()",
            "(1",
            "1)",
            "1+",
            "+1",
            "1 2",
            "(1)(2)",
            "1**2",
            "x",
            "-3",
            "1.5",
            "9".repeat(19).as_str(),
        ] {
            assert_eq!(Expression::parse(text), None, "{text}");
        }
        assert_eq!(Expression::parse(&"(".repeat(100_000)), None);
        assert!(Expression::parse(&format!("{}1{}", "(".repeat(500), ")".repeat(500))).is_some());
        assert_eq!(value("1/0"), None);
        assert_eq!(value("1/(2-2)"), None);
        assert_eq!(value(&["999999999999999999"; 9].join("*")), None);
    }

    #[test]
    fn written_expressions_have_the_brackets_they_need() {
        let [a, b, c] = [2, 3, 4].map(Written::number);
        let sum = Written::join(Operation::Add, &a, &b, 5);
        let product = Written::join(Operation::Multiply, &sum, &c, 20);
        assert_eq!(product.clone().into_text(), "(2+3)*4");
        let difference = Written::join(Operation::Subtract, &product, &sum, 15);
        assert_eq!(difference.into_text(), "(2+3)*4-(2+3)");
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9+*/() -]{0,60}") {
            if let Some(expression) = Expression::parse(&text) {
                let _ = expression.value();
            }
        }
    }
}
