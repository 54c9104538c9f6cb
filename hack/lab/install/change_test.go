package install

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

func TestOnlyWhatWasUnderWayWhenTheAddressMovedIsCut(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }
	moves := []event{{at: at(1000)}}
	reset := fmt.Errorf("read: %w", syscall.ECONNRESET)
	silent := fmt.Errorf("get: %w", context.DeadlineExceeded)
	for _, c := range []struct {
		name       string
		begun, end int
		err        error
		want       bool
	}{
		{"reset across the move", 980, 1010, reset, true},
		{"silent since the move", 980, 5980, silent, true},
		{"reset long before", 500, 520, reset, false},
		{"reset long after", 2000, 2010, reset, false},
		{"silent since long before", 500, 5500, silent, false},
		{"silent since after", 1200, 6200, silent, false},
		{"refused across the move", 980, 1010, syscall.ECONNREFUSED, false},
		{"something else", 980, 1010, errors.New("500 Internal Server Error"), false},
	} {
		if got := wasCut(lab.Attempt{Begun: at(c.begun), Ended: at(c.end), Err: c.err}, moves); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
