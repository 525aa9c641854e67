//! Units that follow an answer, which say nothing that is compared.

/// Words that a number may be followed by, besides those set in `\text{…}`.
const UNITS: [&str; 112] = [
    "inch",
    "inches",
    "foot",
    "feet",
    "ft",
    "yard",
    "yards",
    "mile",
    "miles",
    "mm",
    "cm",
    "dm",
    "km",
    "meter",
    "meters",
    "metre",
    "metres",
    "centimeter",
    "centimeters",
    "kilometer",
    "kilometers",
    "mg",
    "gm",
    "kg",
    "gram",
    "grams",
    "kilogram",
    "kilograms",
    "pound",
    "pounds",
    "lb",
    "lbs",
    "ounce",
    "ounces",
    "oz",
    "ton",
    "tons",
    "liter",
    "liters",
    "litre",
    "litres",
    "ml",
    "gallon",
    "gallons",
    "sec",
    "second",
    "seconds",
    "min",
    "minute",
    "minutes",
    "hr",
    "hrs",
    "hour",
    "hours",
    "day",
    "days",
    "week",
    "weeks",
    "month",
    "months",
    "year",
    "years",
    "mph",
    "kmph",
    "kmh",
    "hz",
    "unit",
    "units",
    "sq",
    "square",
    "cubic",
    "cu",
    "cent",
    "cents",
    "dollar",
    "dollars",
    "rupees",
    "euros",
    "yuan",
    "apples",
    "books",
    "boys",
    "cars",
    "children",
    "coins",
    "cookies",
    "cups",
    "digits",
    "edges",
    "eggs",
    "girls",
    "marbles",
    "men",
    "oranges",
    "pages",
    "pairs",
    "pencils",
    "people",
    "persons",
    "points",
    "students",
    "teachers",
    "tickets",
    "tiles",
    "times",
    "votes",
    "ways",
    "women",
    "workers",
    "integers",
    "numbers",
    "solutions",
];

/// The text without the unit words that it ends in, where a figure stands before them.
pub(super) fn without_units(text: &str) -> &str {
    let mut kept = text.trim_end();
    loop {
        let trimmed = kept.trim_end_matches(|c: char| c == '.' || c.is_whitespace());
        let word_start = trimmed
            .rfind(|c: char| !c.is_ascii_alphabetic())
            .map_or(0, |place| {
                place + trimmed[place..].chars().next().map_or(1, char::len_utf8)
            });
        let word = trimmed[word_start..].to_ascii_lowercase();
        let before = trimmed[..word_start].trim_end();
        // A figure stands before it, not a backslash: `\min` is a command.
        let follows_figure =
            before.ends_with(|c: char| c.is_ascii_alphanumeric() || "})".contains(c));
        let is_command = trimmed[..word_start].ends_with('\\');
        if !UNITS.contains(&word.as_str()) || !follows_figure || is_command {
            return kept;
        }
        kept = before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_after_a_figure_are_dropped() {
        assert_eq!(without_units("5 cm"), "5");
        assert_eq!(without_units("12 square inches."), "12");
        assert_eq!(without_units(r"\frac{1}{2} miles"), r"\frac{1}{2}");
        assert_eq!(without_units("students"), "students");
        assert_eq!(without_units("3m"), "3m");
        assert_eq!(without_units(r"2\min"), r"2\min");
    }
}
