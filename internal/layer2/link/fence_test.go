package link

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

func TestAFenceIsShutForAWhileAfterAStop(t *testing.T) {
	var f fence
	const ms = time.Millisecond
	f.begin(0)
	for _, c := range []struct {
		at   time.Duration
		beat bool
		open bool
	}{
		{100 * ms, false, true},
		{250 * ms, true, true},
		{1500 * ms, false, true},  // starved, and not for long enough
		{1500 * ms, true, true},   // so that nothing follows
		{2751 * ms, false, false}, // stopped: a reader may be the first to run on
		{2752 * ms, true, false},
		{3000 * ms, true, false},
		{3251 * ms, false, false},
		{3252 * ms, false, true},
		{3500 * ms, true, true},
		{time.Hour, true, false}, // suspended
		{time.Hour + 499*ms, false, false},
		{time.Hour + 500*ms, true, true},
	} {
		if c.beat {
			f.beat(c.at)
		}
		if got := f.open(c.at); got != c.open {
			t.Errorf("at %v: open %v, want %v", c.at, got, c.open)
		}
	}
}

// A process that was stopped for longer than others wait answers nothing that was asked
// meanwhile, and announces nothing that fell due, until it can have heard who answers
// now. Then it goes on.
func TestAStoppedProcessAnswersNothingThatWasAskedMeanwhile(t *testing.T) {
	n := newLAN(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command("nsenter", "--net=/run/netns/"+n.node.name, self, "-test.run", "^TestChildAnswersAndRefreshes$", "-test.v")
	cmd.Env = append(os.Environ(), "BELFRY_LINK_CHILD=refreshes")
	cmd.Stdout, cmd.Stderr = &log, &log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wire, frames := n.peer.tap("eth0")
	them, asker6 := n.peer.mac("eth0"), netip.MustParseAddr("2001:db8::2")
	ask := func() {
		for _, question := range [][]byte{requestARP(broadcast, them, peer4, vip4), solicitation(lb.MAC{}, them, asker6, vip6)} {
			if err := wire.send(question); err != nil {
				t.Fatal(err)
			}
		}
	}
	// says waits until the process says of an address that it is its node's.
	says := func(what string, patience time.Duration) bool {
		t.Helper()
		again := time.NewTicker(50 * time.Millisecond)
		defer again.Stop()
		for late := time.After(patience); ; {
			select {
			case f := <-frames:
				if of(f, vip4) || of(f, vip6) {
					return true
				}
			case <-again.C:
				ask()
			case <-late:
				return false
			}
		}
	}
	if !says("at first", 10*time.Second) {
		t.Fatalf("no answer at first: %s", log.String())
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is stopped", func() (bool, string) {
		drain(frames)
		ask()
		time.Sleep(20 * time.Millisecond)
		return len(frames) == 0, "it answers"
	})
	for end := time.Now().Add(stopped + pulsing + time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		ask()
	}
	drain(frames)
	resumed := time.Now()
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if !says("after it runs on", 10*time.Second) {
		t.Errorf("it does not answer any more: %s", log.String())
	}
	if after := time.Since(resumed); after < catchUp {
		t.Errorf("%v after it ran on it said that an address is its node's; others may have it", after)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil || !bytes.Contains(log.Bytes(), []byte("--- PASS: TestChildAnswersAndRefreshes")) {
		t.Errorf("%v: %s", err, log.String())
	}
}

// of reports whether a frame says that its sender has an address.
func of(frame []byte, a netip.Addr) bool {
	if p, m := parseARP(frame); m == wellFormed {
		return p.sender == a
	}
	p, m := parseNDP(frame)
	return m == wellFormed && !p.solicitation && p.target == a
}

// TestChildAnswersAndRefreshes is the other half: it answers, and announces all the
// time, until its standard input ends.
func TestChildAnswersAndRefreshes(t *testing.T) {
	if os.Getenv("BELFRY_LINK_CHILD") != "refreshes" {
		t.Skip("runs as a child of TestAStoppedProcessAnswersNothingThatWasAskedMeanwhile")
	}
	answersUntilTold(t, Options{RefreshInterval: 100 * time.Millisecond})
}

// However the clock is set, forward or back, while an answer is awaited or later, it
// came when it came, and counts for a minute.
func TestAClockThatIsSetMakesNoAnswerLate(t *testing.T) {
	first := time.Now()
	for _, set := range []time.Duration{0, time.Hour, -time.Hour, 90 * time.Second, -time.Second} {
		read := first.Add(5 * time.Millisecond)
		stamp := read.Add(-2 * time.Millisecond).Round(0).Add(-set) // of before it was set
		at := arrival(read, stamp)
		want := 3 * time.Millisecond
		if set != 0 {
			want = 5 * time.Millisecond
		}
		if late := at.Sub(first); late != want {
			t.Errorf("set by %v: the answer came after %v, want %v", set, late, want)
		}
		var l layer2.Lateness
		l.Add(at, at.Sub(first))
		if known, later := l.Window(at.Add(time.Second)), l.Window(at.Add(time.Hour)); known == later {
			t.Errorf("set by %v: the window is %v, and an hour later, too", set, known)
		}
		if strings.Contains(at.String(), "m=") != strings.Contains(first.String(), "m=") {
			t.Errorf("set by %v: %v can be set", set, at)
		}
	}
	if at := arrival(first.Add(3*time.Second), first.Round(0)); at.Sub(first).Abs() > time.Millisecond {
		t.Errorf("a frame that waited for 3 s came %v after its question", at.Sub(first))
	}
}
