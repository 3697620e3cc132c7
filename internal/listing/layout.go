package listing

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
)

// A Layout is how each element of a listing is printed.
type Layout struct {
	template *template.Template
	table    bool // in columns, with heads
}

// ParseLayout reads a Go template. One that begins with the word "table" has columns,
// which tabs separate; \t and \n are tabs and ends of lines. The functions json and
// prettyjson print a value as JSON.
func ParseLayout(format string) (Layout, error) {
	format, table := strings.CutPrefix(format, "table")
	format = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(strings.Trim(format, " "))
	layout, err := ParseTemplate(format + "\n")
	return Layout{layout, table}, err
}

// ParseTemplate reads a Go template that may use json and prettyjson.
func ParseTemplate(text string) (*template.Template, error) {
	return template.New("").Funcs(template.FuncMap{"json": compact, "prettyjson": pretty}).Parse(text)
}

// Execute is the template's own, but for errors: they do not name hyve's types.
func Execute(w io.Writer, t *template.Template, data any) error {
	err := t.Execute(w, data)
	if failed := (template.ExecError{}); errors.As(err, &failed) {
		said, _, _ := strings.Cut(err.Error(), " in type ")
		return errors.New(said)
	}
	return err
}

func compact(v any) (string, error) {
	data, err := json.Marshal(v)
	return string(data), err
}

func pretty(v any) (string, error) {
	data, err := json.MarshalIndent(v, "", "    ")
	return string(data), err
}

// Print prints elements; heads are the columns' names by those of their fields.
func Print[T any](w io.Writer, l Layout, heads map[string]string, elements []T) error {
	if l.table {
		tabs := tabwriter.NewWriter(w, 5, 1, 3, ' ', 0)
		defer tabs.Flush()
		if err := Execute(tabs, l.template, heads); err != nil {
			return err
		}
		w = tabs
	}
	for _, e := range elements {
		if err := Execute(w, l.template, e); err != nil {
			return err
		}
	}
	return nil
}
