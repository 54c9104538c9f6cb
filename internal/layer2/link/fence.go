package link

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A fence keeps a process that did not run for a while (it was stopped or starved, or
// the machine was suspended) from answering when it runs on: what waits in its sockets
// was asked long ago, and another node may answer for the address by now. The fence is
// closed until the others, whom gossip asks at once, must have said so.
//
// It is closed without anybody having to close it: the pulse is older than it may be.
type fence struct {
	pulse, shut atomic.Int64 // on the clock of uptime: the last pulse, and until when it is shut
}

// docs/design/answering.md has the reasons.
const (
	// pulsing is the pause between two pulses.
	pulsing = 250 * time.Millisecond
	// stopped is the longest one of a process that runs. Those that do not hear of a
	// node for half a second more take over what it owns.
	stopped = time.Second + pulsing
	// catchUp is how long the fence stays shut after the process runs on: as long as
	// gossip takes to tell who took over what, and as an address lingers that another
	// one is found to claim.
	catchUp = 500 * time.Millisecond
)

// run beats until ctx ends.
func (f *fence) run(ctx context.Context) {
	ticker := time.NewTicker(pulsing)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f.beat(uptime())
		}
	}
}

// begin is the first beat.
func (f *fence) begin(now time.Duration) { f.pulse.Store(int64(now)) }

func (f *fence) beat(now time.Duration) {
	if now-time.Duration(f.pulse.Load()) > stopped {
		f.shut.Store(int64(now + catchUp))
	}
	f.pulse.Store(int64(now))
}

// open reports whether this process may say that an address is its node's.
func (f *fence) open(now time.Duration) bool {
	return now-time.Duration(f.pulse.Load()) <= stopped && now >= time.Duration(f.shut.Load())
}

// uptime is how long the machine has been up, suspensions included, which Go's own
// clock leaves out. Nobody can set it.
func uptime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // fails only for a clock that is not there
	return time.Duration(ts.Nano())
}
