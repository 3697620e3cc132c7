package outbox_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/guest/outbox/outboxtest"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

func TestOutboxDropsLogs(t *testing.T) {
	o := outboxtest.New()
	const kept, extra = 4096, 10 // see maxQueuedLogs
	for i := range kept + extra {
		o.Logf("line %d", i)
	}
	o.Put(guestapi.Event{Phase: &guestapi.Phase{Name: guestapi.NewText("x")}})
	if e := outboxtest.Next(t, o, func(e guestapi.Event) bool { return e.Hello == nil }); e.Phase == nil {
		t.Errorf("a phase waits behind log lines: %s", fmt.Sprint(e))
	}
	lines, reported := 0, false
	for !reported || lines < kept {
		e := outboxtest.Next(t, o, func(guestapi.Event) bool { return true })
		if strings.HasPrefix(e.Log.Line.String(), "line ") {
			lines++
		} else {
			reported = e.Log.Line.String() == fmt.Sprintf("%d log lines were dropped: the host reads too slowly", extra)
		}
	}
	o.Flush(time.Second) // empty: returns
	o.Logf("last")
	began := time.Now()
	o.Flush(20 * time.Millisecond)
	if time.Since(began) < 20*time.Millisecond {
		t.Error("flush did not wait for what is queued")
	}
}
