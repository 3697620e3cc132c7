package supervisor

import (
	"context"
	"slices"
)

// A channel carries something between the host and the guest that is no part of the VM: who
// writes to it puts something into the guest's memory, also while that is being saved, of
// which the guest knows nothing when it is thawed. So all are quiet then.
type channel interface {
	// quiesce keeps everybody from writing until resume, or until the next VM, and returns
	// when nothing is on its way any more. After an error nobody is kept from it.
	quiesce(ctx context.Context) error
	// resume may come without a quiesce.
	resume()
}

// channels are all that lead into a VM. One that needs another comes before that.
type channels []channel

// quiesce makes all of them quiet, or none.
func (c channels) quiesce(ctx context.Context) error {
	for i, channel := range c {
		if err := channel.quiesce(ctx); err != nil {
			c[:i].resume()
			return err
		}
	}
	return nil
}

// resume has all of them go on, those first that others need.
func (c channels) resume() {
	for _, channel := range slices.Backward(c) {
		channel.resume()
	}
}
