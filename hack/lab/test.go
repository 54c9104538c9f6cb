package lab

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Start brings a run up for a test and takes it down when the test ends. A
// test that cannot have it here is skipped and says why; where a lab must be
// possible (BELFRY_LAB=required) it fails instead. On failure the ends of all
// logs are shown, and the logs stay.
func Start(t testing.TB, opts Options) *Lab {
	t.Helper()
	Require(t, opts)
	opts.Progress = logWriter{t}
	l, err := Up(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { finish(t, l) })
	return l
}

// Require skips a test that cannot have such a run here, or fails it where a
// lab must be possible (BELFRY_LAB=required).
func Require(t testing.TB, opts Options) {
	t.Helper()
	if why := cannot(opts); why != nil {
		unable(t, why)
	}
}

// cannot says why a run is impossible here.
func cannot(opts Options) error {
	if testing.Short() {
		return errShort
	}
	if opts.ControlPlaneOnly {
		return nil
	}
	return unableTo(opts)
}

type skipReason string

func (s skipReason) Error() string { return string(s) }

const errShort = skipReason("-short: the lab is left out")

func unable(t testing.TB, why error) {
	t.Helper()
	if os.Getenv("BELFRY_LAB") == "required" {
		t.Fatalf("this test needs the lab: %v", why)
	}
	t.Skipf("SKIPPED, NOT PASSED: this test needs the lab: %v", why)
}

// finish takes the run down after a test that used it.
func finish(t testing.TB, l *Lab) {
	for _, p := range l.Processes.All() {
		if report := dataRace(p.Log); report != "" {
			t.Errorf("%s has a data race (log %s):\n%s", p.Name, p.Log, report)
		}
	}
	if t.Failed() {
		showLogs(t, l)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	if err := l.Down(ctx); err != nil {
		t.Errorf("take lab %s down: %v", l.Name, err)
		return
	}
	if t.Failed() {
		t.Logf("the logs of lab %s stay in %s", l.Name, l.LogDir())
		return
	}
	if err := l.RemoveLogs(); err != nil {
		t.Error(err)
	}
}

// showLogs writes the end of each log into the test's own.
func showLogs(t testing.TB, l *Lab) {
	for _, p := range l.Processes.All() {
		switch filepath.Base(p.Args[0]) {
		case "etcd", "kube-apiserver", "kube-scheduler", "kube-controller-manager", "kube-proxy":
			if p.Alive() {
				continue // no news
			}
		}
		t.Logf("--- end of %s (running: %v)\n%s", p.Log, p.Alive(), p.Tail(30))
	}
}

// dataRace returns the race detector's first report in a log.
func dataRace(log string) string {
	b, err := os.ReadFile(log)
	if err != nil {
		return ""
	}
	i := bytes.Index(b, []byte("WARNING: DATA RACE"))
	if i < 0 {
		return ""
	}
	return string(b[i:min(len(b), i+4000)])
}

// logWriter passes progress to a test's log.
type logWriter struct{ t testing.TB }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimRight(b, "\n"))
	return len(b), nil
}

// A Shared lab serves all tests of a package: it comes up for the first that
// asks, and [Shared.Run] takes it down after the last.
//
//	var shared = lab.Share(lab.Options{Nodes: 3})
//
//	func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }
type Shared struct {
	opts Options
	up   func() (*Lab, error)
	mu   sync.Mutex
	lab  *Lab
	// failed is set when a test that used it has failed.
	failed bool
}

// Share prepares a lab for a package's tests.
func Share(opts Options) *Shared {
	s := &Shared{opts: opts}
	s.opts.Progress = os.Stderr
	s.up = sync.OnceValues(func() (*Lab, error) {
		// Not the first test's context: the lab outlives it.
		l, err := Up(context.Background(), s.opts)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lab = l
		return l, err
	})
	return s
}

// Get returns the lab, or skips the test as [Start] does. When the test fails,
// the ends of the logs are shown.
func (s *Shared) Get(t testing.TB) *Lab {
	t.Helper()
	Require(t, s.opts)
	l, err := s.up()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			s.mu.Lock()
			s.failed = true
			s.mu.Unlock()
			showLogs(t, l)
			t.Logf("the logs of lab %s are in %s", l.Name, l.LogDir())
		}
	})
	return l
}

// Run runs the package's tests and takes the lab down. Its result is for
// os.Exit.
func (s *Shared) Run(m *testing.M) int {
	code := m.Run()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lab == nil {
		return code
	}
	for _, p := range s.lab.Processes.All() {
		if report := dataRace(p.Log); report != "" {
			println(p.Name + " has a data race (log " + p.Log + "):\n" + report)
			code, s.failed = 1, true
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.lab.Down(ctx); err != nil {
		println("take lab " + s.lab.Name + " down: " + err.Error())
		return 1
	}
	if !s.failed {
		_ = s.lab.RemoveLogs()
	}
	return code
}
