package listing

import (
	"errors"
	"strings"
	"testing"
)

type thing struct {
	Name   string
	Labels []string
}

var keys = Keys[thing]{
	"name":    Equal(func(t thing) string { return t.Name }),
	"pattern": Pattern(func(t thing) string { return t.Name }),
	"label":   Label(func(t thing) []string { return t.Labels }),
}

var things = []thing{{"m1", []string{"a=b", "c"}}, {"M2", nil}, {"other", []string{"a=c"}}}

func names(t *testing.T, conditions ...string) string {
	t.Helper()
	filter, err := keys.Parse(conditions)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, thing := range things {
		if filter.Matches(thing) {
			found = append(found, thing.Name)
		}
	}
	return strings.Join(found, " ")
}

func TestFilter(t *testing.T) {
	for conditions, want := range map[string]string{
		"":                               "m1 M2 other",
		"name=m2":                        "M2",
		"NAME=M1":                        "m1",
		"name=m1 name=m2":                "m1 M2",
		"name=m1 pattern=2":              "",
		"pattern=^.$":                    "",
		"pattern=[12]":                   "m1 M2",
		"label=a=B":                      "m1",
		"label=c":                        "m1",
		"label=a":                        "",
		"label=a=b label=a=c pattern=th": "other",
	} {
		if got := names(t, strings.Fields(conditions)...); got != want {
			t.Errorf("%s: %s, want %s", conditions, got, want)
		}
	}
	if _, err := keys.Parse([]string{"name"}); !errors.Is(err, ErrSyntax) {
		t.Errorf("no value: %v", err)
	}
	if unknown := (*KeyError)(nil); true {
		if _, err := keys.Parse([]string{"Foo=x"}); !errors.As(err, &unknown) || unknown.Key != "foo" {
			t.Errorf("no key: %v", err)
		}
	}
	if _, err := keys.Parse([]string{"pattern=("}); err == nil {
		t.Error("a broken pattern is accepted")
	}
}

func FuzzFilter(f *testing.F) {
	for _, seed := range []string{"name=x", "label=a=b", "pattern=(", "=", "NAME==", "x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, condition string) {
		filter, err := keys.Parse([]string{condition})
		if (filter == nil) != (err != nil) {
			t.Fatalf("%v, %v", filter, err)
		}
		for _, thing := range things {
			filter.Matches(thing)
		}
	})
}

func TestLayout(t *testing.T) {
	heads := map[string]string{"Name": "NAME", "Labels": "LABELS"}
	for format, want := range map[string]string{
		`{{.Name}}`:                    "m1\nM2\nother\n",
		`table {{.Name}}\t{{.Labels}}`: "NAME    LABELS\nm1      [a=b c]\nM2      []\nother   [a=c]\n",
		`{{.Name}}\t{{json .Labels}}`:  "m1\t[\"a=b\",\"c\"]\nM2\tnull\nother\t[\"a=c\"]\n",
		`table{{.Name}}\n`:             "NAME\n\nm1\n\nM2\n\nother\n\n",
	} {
		layout, err := ParseLayout(format)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := Print(&b, layout, heads, things); err != nil || b.String() != want {
			t.Errorf("%s: %q, %v, want %q", format, b.String(), err, want)
		}
	}
	if _, err := ParseLayout("{{.Name"); err == nil {
		t.Error("a broken template is accepted")
	}
	layout, _ := ParseLayout("{{.Nope}}")
	if err := Print(new(strings.Builder), layout, heads, things); err == nil || !strings.HasPrefix(err.Error(), "template: :1:") {
		t.Errorf("a field that there is not: %v", err)
	}
}
