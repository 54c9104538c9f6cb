package gobgp

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/layer2/link"
	"github.com/belfrylb/belfry/internal/lb"
)

// The lab: this process lives in a network namespace of its own, as a node
// would. Routers live in namespaces of their own, each on a wire of its own, and
// are told apart by it. They are shared by all tests: a test takes a source
// address of the wire that no other uses, and makes it a neighbor.
//
// Namespaces have no name; they go with the processes that hold them.

var rewrite = flag.Bool("rewrite", false, "write what routers print into testdata")

const (
	labChild  = "BELFRY_BGP_LAB"
	childNode = "node" // the test process proper, in its namespace
	childHold = "hold" // holds a namespace until its standard input ends
	childGone = "peer" // a speaker to be killed; see graceful_test.go
)

func TestMain(m *testing.M) {
	switch os.Getenv(labChild) {
	case childNode:
		code := 1
		if err := run("ip", "link", "set", "lo", "up"); err != nil {
			fmt.Fprintln(os.Stderr, err)
		} else {
			// Tests mostly wait, for timers and for routers.
			flag.Parse()
			if err := flag.Set("test.parallel", "8"); err != nil {
				panic(err)
			}
			code = m.Run()
		}
		lab.close()
		os.Exit(code)
	case childHold:
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	case childGone:
		speakUntilKilled()
	}
	if os.Geteuid() != 0 {
		fmt.Println("not root: the tests against routers are skipped")
		os.Exit(m.Run())
	}
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), labChild+"="+childNode)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The thread that starts the child must live as long as it does, for
	// Pdeathsig's sake.
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		panic(err)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

func run(args ...string) error {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// labs are the routers that tests have asked for.
type labs struct {
	mu       sync.Mutex
	closers  []func()
	frr      *frr
	bird     *bird
	openbgpd *openbgpd
	kernel   *link.Link
}

var lab labs

func (l *labs) close() {
	for _, c := range slices.Backward(l.closers) {
		c()
	}
}

// room makes what a router lives in until the tests end: a directory, and a namespace
// with these wires. mu is held.
func (l *labs) room(t *testing.T, pattern string, wires ...int) (dir string, ns namespace) {
	t.Helper()
	dir, err := os.MkdirTemp("", pattern)
	if err != nil {
		t.Fatal(err)
	}
	l.closers = append(l.closers, func() { os.RemoveAll(dir) })
	if ns, err = l.namespace(); err != nil {
		t.Fatal(err)
	}
	for _, n := range wires {
		if err := l.wire(n, ns); err != nil {
			t.Fatal(err)
		}
	}
	return dir, ns
}

// namespace makes a network namespace.
func (l *labs) namespace() (namespace, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	hold := exec.Command(self)
	hold.Env = append(os.Environ(), labChild+"="+childHold)
	in, err := hold.StdinPipe()
	if err != nil {
		return 0, err
	}
	hold.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := hold.Start(); err != nil {
		return 0, err
	}
	l.closers = append(l.closers, func() { in.Close(); _ = hold.Wait() })
	ns := namespace(hold.Process.Pid)
	for _, step := range [][]string{
		ns.args("ip", "link", "set", "lo", "up"),
		ns.args("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.forwarding=1"),
	} {
		if err := run(step...); err != nil {
			return ns, err
		}
	}
	return ns, nil
}

// wire lays wire n between us and a namespace: node<n> here and rtr<n> there.
// Its networks are 192.0.<n>.0/24 and 2001:db8:<n>::/64; the router has .1 and
// ::1, we have .10 and ::10 up to .249 and ::249.
func (l *labs) wire(n int, ns namespace) error {
	here, there := fmt.Sprintf("node%d", n), fmt.Sprintf("rtr%d", n)
	for _, step := range [][]string{
		{"ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", fmt.Sprint(int(ns))},
		{"sysctl", "-qw", "net.ipv6.conf." + here + ".accept_dad=0", "net.ipv6.conf." + here + ".accept_ra=0"},
		ns.args("sysctl", "-qw", "net.ipv6.conf."+there+".accept_dad=0"),
		{"ip", "link", "set", here, "up"},
		ns.args("ip", "link", "set", there, "up"),
		ns.args("ip", "addr", "add", fmt.Sprintf("192.0.%d.1/24", n), "dev", there),
		ns.args("ip", "addr", "add", fmt.Sprintf("2001:db8:%d::1/64", n), "dev", there, "nodad"),
	} {
		if err := run(step...); err != nil {
			return err
		}
	}
	return errors.Join(address(n, "192.0.%d.%d/24"), address(n, "2001:db8:%d::%d/64"))
}

// address gives us our addresses of a family on wire n.
func address(n int, form string) error {
	var ours strings.Builder
	for i := 10; i < 250; i++ {
		fmt.Fprintf(&ours, "addr add "+form+" dev node%d", n, i, n)
		if strings.Contains(form, ":") {
			ours.WriteString(" nodad")
		}
		ours.WriteByte('\n')
	}
	batch := exec.Command("ip", "-batch", "-")
	batch.Stdin = strings.NewReader(ours.String())
	if out, err := batch.CombinedOutput(); err != nil {
		return fmt.Errorf("our addresses: %w: %s", err, out)
	}
	return nil
}

// interfaces returns the node's, as the product reads them.
func (l *labs) interfaces(t *testing.T) []lb.Interface {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kernel == nil {
		k, err := link.New(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), link.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = k.Run(ctx) }()
		l.kernel, l.closers = k, append(l.closers, func() { cancel(); <-done })
	}
	var all []lb.Interface
	eventually(t, within, func() (bool, any) { // another test may have just laid a wire
		all = l.kernel.Interfaces()
		n := 0
		for _, i := range all {
			n += len(i.Addresses)
		}
		addrs, err := net.InterfaceAddrs()
		return err == nil && n == len(addrs) && len(all) > 0, fmt.Sprintf("%d addresses of %d (%v)", n, len(addrs), err)
	})
	return all
}

// A namespace is the process that holds a network namespace.
type namespace int

func (ns namespace) args(args ...string) []string {
	return append([]string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", int(ns))}, args...)
}

// daemon starts a program in a namespace, ended by the lab's end at the latest.
func (l *labs) daemon(ns namespace, log string, args ...string) (stop func(), err error) {
	args = ns.args(args...)
	cmd := exec.Command(args[0], args[1:]...)
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			done := make(chan struct{})
			go func() { _ = cmd.Wait(); close(done) }()
			select {
			case <-done:
			case <-time.After(3 * time.Second):
				_ = cmd.Process.Kill()
				<-done
			}
			out.Close()
		})
	}
	l.closers = append(l.closers, stop)
	return stop, nil
}

func need(t *testing.T, programs ...string) {
	t.Helper()
	if os.Getenv(labChild) != childNode {
		t.Skip("needs root, to make network namespaces")
	}
	if testing.Short() {
		t.Skip("-short: a test against a real router")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("SKIPPED, this machine cannot run it: %v", err)
		}
	}
}

// A speaker is a Peering that runs for one test.
type speaker struct {
	*Peering
	t    *testing.T
	stop func()
	mu   sync.Mutex
	said map[string]bgp.Session
	// world says whose the node's addresses are.
	world lb.Snapshot
}

func speak(t *testing.T) *speaker {
	t.Helper()
	level := slog.LevelInfo
	if os.Getenv("BELFRY_BGP_DEBUG") != "" {
		level = slog.LevelDebug
	}
	p := New(slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level})))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Run(ctx) }()
	s := &speaker{Peering: p, t: t, said: map[string]bgp.Session{}, stop: func() { cancel(); <-done }}
	t.Cleanup(s.stop)
	return s
}

var routerID = netip.MustParseAddr("10.255.0.1")

// say sets one session.
func (s *speaker) say(p lb.BGPPeer, routes ...bgp.Route) {
	s.t.Helper()
	s.sayOn(bgp.HostInterfaces(s.world, "a", lab.interfaces(s.t)), p, routes...)
}

// sayOn sets one session of a node with these interfaces.
func (s *speaker) sayOn(interfaces []bgp.HostInterface, p lb.BGPPeer, routes ...bgp.Route) {
	slices.SortFunc(routes, func(a, b bgp.Route) int { return bgp.ComparePrefix(a.Prefix, b.Prefix) })
	s.Set([]bgp.Session{{Peer: p, RouterID: routerID, Routes: routes, Interfaces: interfaces}})
}

// sayToo sets one session and leaves the others as they are.
func (s *speaker) sayToo(p lb.BGPPeer, routes ...bgp.Route) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said[p.Name] = bgp.Session{Peer: p, RouterID: routerID, Routes: routes, Interfaces: bgp.HostInterfaces(s.world, "a", lab.interfaces(s.t))}
	s.Set(slices.Collect(maps.Values(s.said)))
}

// view returns the session of a peer.
func (s *speaker) view(name string) bgp.SessionView {
	for _, v := range s.Sessions() {
		if v.Peer == name {
			return v
		}
	}
	return bgp.SessionView{Peer: "none"}
}

// established waits until a session is, with its routes sent.
func (s *speaker) established(name string) bgp.SessionView {
	s.t.Helper()
	var v bgp.SessionView
	eventually(s.t, within, func() (bool, any) {
		v = s.view(name)
		return v.State == bgp.Established && v.Sent == v.Routes, v
	})
	return v
}

// sends waits until a session is up, so many routes are sent, and none is held back:
// a next hop may be known a moment later than the session.
func (s *speaker) sends(name string, routes int) bgp.SessionView {
	s.t.Helper()
	var v bgp.SessionView
	eventually(s.t, within, func() (bool, any) {
		v = s.view(name)
		return v.State == bgp.Established && v.Sent == routes && v.Routes == routes && len(v.Unsendable) == 0, fmt.Sprintf("%+v", v)
	})
	return v
}

// establishedTimes waits until a session has come up so many times, and is up with
// its routes sent.
func (s *speaker) establishedTimes(name string, n uint64) {
	s.t.Helper()
	eventually(s.t, within, func() (bool, any) {
		v := s.view(name)
		return v.State == bgp.Established && v.Counters.Established == n && v.Sent == v.Routes, fmt.Sprintf("%s %+v", show(v), v.Counters)
	})
}

// faults waits until a session shows a cause.
func (s *speaker) faults(name string, cause bgp.Cause) bgp.SessionView {
	s.t.Helper()
	var v bgp.SessionView
	eventually(s.t, within, func() (bool, any) {
		v = s.view(name)
		return v.Fault != nil && v.Fault.Cause == cause, show(v)
	})
	return v
}

func show(v bgp.SessionView) string {
	s := fmt.Sprintf("%s %v routes %d sent %d", v.Peer, v.State, v.Routes, v.Sent)
	if v.Fault != nil {
		s += fmt.Sprintf(" fault %v: %s", v.Fault.Cause, v.Fault.Text)
	}
	return s
}

// within is how long a fact may be in coming: far longer than it takes, as the
// machine may be busy with other things.
const within = 30 * time.Second

// eventually waits for a fact, and shows what it saw when that does not come.
func eventually(t *testing.T, limit time.Duration, fact func() (bool, any)) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		ok, seen := fact()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			if v, is := seen.(bgp.SessionView); is {
				seen = show(v)
			}
			if v, is := seen.(map[string]any); is {
				js, _ := json.MarshalIndent(v, "", " ")
				seen = string(js)
			}
			t.Fatalf("not within %v; last seen: %v", limit, seen)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func route(prefix string, a ...bgp.Attributes) bgp.Route {
	r := bgp.Route{Prefix: netip.MustParsePrefix(prefix)}
	if len(a) > 0 {
		r.Attributes = a[0]
	}
	return r
}
