package dockermachine

import (
	"regexp"
	"slices"
	"strings"
)

// filters are what a listing is narrowed down to: of each key one of the conditions has to
// hold.
type filters map[string][]func(item) bool

// parseFilters reads conditions KEY=VALUE.
func parseFilters(conditions []string) (filters, error) {
	f := filters{}
	for _, condition := range conditions {
		key, value, ok := strings.Cut(condition, "=")
		if !ok {
			return nil, message("Unsupported filter syntax")
		}
		key = strings.ToLower(key)
		holds, err := parseFilter(key, value)
		if err != nil {
			return nil, err
		}
		f[key] = append(f[key], holds)
	}
	return f, nil
}

func parseFilter(key, value string) (func(item) bool, error) {
	switch key {
	case "driver":
		return func(i item) bool { return strings.EqualFold(i.DriverName, value) }, nil
	case "state":
		return func(i item) bool { return strings.EqualFold(i.State, value) }, nil
	case "swarm":
		return func(i item) bool { return i.Swarm != "" && strings.EqualFold(i.Swarm, value) }, nil
	case "name":
		pattern, err := regexp.Compile(value)
		if err != nil {
			return nil, err
		}
		return func(i item) bool { return pattern.MatchString(i.Name) }, nil
	case "label":
		return func(i item) bool {
			return i.EngineOptions != nil && slices.ContainsFunc(i.EngineOptions.Labels, func(label string) bool {
				key, is, _ := strings.Cut(label, "=")
				wanted, want, _ := strings.Cut(value, "=")
				return key == wanted && strings.EqualFold(is, want)
			})
		}, nil
	}
	return nil, message("Unsupported filter key '%s'", printable(key))
}

// matches tells whether a machine is one that is asked for.
func (f filters) matches(i item) bool {
	for _, conditions := range f {
		if !slices.ContainsFunc(conditions, func(holds func(item) bool) bool { return holds(i) }) {
			return false
		}
	}
	return true
}
