// Package listing narrows listings down and lays them out, as docker's commands do.
package listing

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Keys are what a listing of T can be narrowed down by: each makes a test of a value.
type Keys[T any] map[string]func(value string) (test func(T) bool, err error)

// A Filter has tests by their keys.
type Filter[T any] map[string][]func(T) bool

// ErrSyntax says that a condition is not of the form KEY=VALUE.
var ErrSyntax = errors.New("a filter is of the form KEY=VALUE")

// KeyError says that there is no such key.
type KeyError struct{ Key string }

func (e *KeyError) Error() string { return fmt.Sprintf("there is no filter %q", e.Key) }

// Parse reads conditions KEY=VALUE; keys in whatever case. The error is ErrSyntax, a
// *KeyError, or a key's own.
func (k Keys[T]) Parse(conditions []string) (Filter[T], error) {
	filter := Filter[T]{}
	for _, condition := range conditions {
		key, value, ok := strings.Cut(condition, "=")
		if !ok {
			return nil, ErrSyntax
		}
		key = strings.ToLower(key)
		makeTest := k[key]
		if makeTest == nil {
			return nil, &KeyError{key}
		}
		test, err := makeTest(value)
		if err != nil {
			return nil, err
		}
		filter[key] = append(filter[key], test)
	}
	return filter, nil
}

// Matches tells whether v is one that is asked for: of each key one test has to hold.
func (f Filter[T]) Matches(v T) bool {
	for _, tests := range f {
		if !slices.ContainsFunc(tests, func(test func(T) bool) bool { return test(v) }) {
			return false
		}
	}
	return true
}

// Equal makes tests for a text that is the value, in whatever case.
func Equal[T any](text func(T) string) func(string) (func(T) bool, error) {
	return func(value string) (func(T) bool, error) {
		return func(v T) bool { return strings.EqualFold(text(v), value) }, nil
	}
}

// Pattern makes tests for a text in which the value, a regular expression, is found.
func Pattern[T any](text func(T) string) func(string) (func(T) bool, error) {
	return func(value string) (func(T) bool, error) {
		pattern, err := regexp.Compile(value)
		if err != nil {
			return nil, err
		}
		return func(v T) bool { return pattern.MatchString(text(v)) }, nil
	}
}

// Label makes tests for labels "key=value" of which one is the value.
func Label[T any](labels func(T) []string) func(string) (func(T) bool, error) {
	return func(value string) (func(T) bool, error) {
		wanted, want, _ := strings.Cut(value, "=")
		return func(v T) bool {
			return slices.ContainsFunc(labels(v), func(label string) bool {
				key, is, _ := strings.Cut(label, "=")
				return key == wanted && strings.EqualFold(is, want)
			})
		}, nil
	}
}
