package dockermachine

import (
	"errors"

	"github.com/hyve-vm/hyve/internal/listing"
)

// filterKeys are what ls --filter knows.
var filterKeys = listing.Keys[item]{
	"driver": listing.Equal(func(i item) string { return i.DriverName }),
	"state":  listing.Equal(func(i item) string { return i.State }),
	"swarm":  listing.Equal(func(i item) string { return i.Swarm }),
	"name":   listing.Pattern(func(i item) string { return i.Name }),
	"label": listing.Label(func(i item) []string {
		if i.EngineOptions == nil {
			return nil
		}
		return i.EngineOptions.Labels
	}),
}

// parseFilters reads conditions KEY=VALUE.
func parseFilters(conditions []string) (listing.Filter[item], error) {
	filter, err := filterKeys.Parse(conditions)
	if key := (*listing.KeyError)(nil); errors.As(err, &key) {
		err = message("Unsupported filter key '%s'", printable(key.Key))
	}
	if errors.Is(err, listing.ErrSyntax) {
		err = message("Unsupported filter syntax")
	}
	return filter, err
}
