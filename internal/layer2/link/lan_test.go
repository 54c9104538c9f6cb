package link

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/lb"
)

// A host is a network namespace of this test's own.
type host struct {
	t    testing.TB
	name string
}

var hosts atomic.Int32

// newHost makes a namespace, or skips the test where that is not permitted.
func newHost(t testing.TB, role string) host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root to make network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("SKIPPED: needs iproute2")
	}
	h := host{t, fmt.Sprintf("bfl2-%d-%d-%s", os.Getpid(), hosts.Add(1), role)}
	if out, err := exec.Command("ip", "netns", "add", h.name).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: cannot make a network namespace: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", h.name).Run() })
	// The kernel's own duplicate detection would make every test wait for it.
	h.set("net/ipv6/conf/default/accept_dad", "0")
	h.ip("link", "set", "lo", "up")
	return h
}

// set writes a sysctl of the namespace.
func (h host) set(name, value string) {
	h.t.Helper()
	h.do(func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0o644) })
}

// do runs f on a thread inside the namespace.
func (h host) do(f func() error) {
	h.t.Helper()
	failure := make(chan error, 1)
	go func() {
		if err := h.enter(); err != nil {
			failure <- err
			return
		}
		failure <- f()
	}()
	if err := <-failure; err != nil {
		h.t.Fatalf("in %s: %v", h.name, err)
	}
}

// enter moves the calling goroutine into the namespace for the rest of its
// life; its thread ends with it.
func (h host) enter() error {
	runtime.LockOSThread()
	fd, err := unix.Open(filepath.Join("/run/netns", h.name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, unix.CLONE_NEWNET)
}

// try runs a program in the namespace.
func (h host) try(args ...string) (string, error) {
	out, err := exec.Command("ip", append([]string{"netns", "exec", h.name}, args...)...).CombinedOutput()
	return string(out), err
}

// ip runs ip(8) in the namespace and insists on success.
func (h host) ip(args ...string) string {
	h.t.Helper()
	out, err := exec.Command("ip", append([]string{"-n", h.name}, args...)...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("ip -n %s %s: %v: %s", h.name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// batch runs many commands of ip(8) in the namespace.
func (h host) batch(commands string) {
	h.t.Helper()
	file := h.t.TempDir() + "/batch"
	if err := os.WriteFile(file, []byte(commands), 0o644); err != nil {
		h.t.Fatal(err)
	}
	h.ip("-batch", file)
}

// cable joins an interface of a to one of b.
func cable(a host, ifa string, b host, ifb string) {
	a.t.Helper()
	a.ip("link", "add", ifa, "type", "veth", "peer", "name", ifb, "netns", b.name)
	a.ip("link", "set", ifa, "up")
	b.ip("link", "set", ifb, "up")
}

// index returns the index of an interface.
func (h host) index(name string) int {
	h.t.Helper()
	out, err := h.try("cat", "/sys/class/net/"+name+"/ifindex")
	if err != nil {
		h.t.Fatalf("interface %s: %v: %s", name, err, out)
	}
	var n int
	if _, err := fmt.Sscan(out, &n); err != nil {
		h.t.Fatal(err)
	}
	return n
}

// mac returns the hardware address of an interface.
func (h host) mac(name string) lb.MAC {
	h.t.Helper()
	out, err := h.try("cat", "/sys/class/net/"+name+"/address")
	if err != nil {
		h.t.Fatalf("interface %s: %v: %s", name, err, out)
	}
	m, err := lb.ParseMAC(strings.TrimSpace(out))
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

// eventually waits until a fact holds, and shows what it was when it did not.
func eventually(t testing.TB, what string, fact func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		ok, seen := fact()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s; at last: %s", what, seen)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// runLink runs a Link inside the namespace until the test ends.
func (h host) runLink(o Options, prepare ...func(*Link)) (*Link, *prometheus.Registry) {
	h.t.Helper()
	reg := prometheus.NewRegistry()
	l, err := New(testLog(h.t), reg, o)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range prepare {
		f(l)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		if err := h.enter(); err != nil {
			ended <- err
			return
		}
		ended <- l.Run(ctx)
	}()
	h.t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				h.t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			stacks := make([]byte, 1<<20)
			h.t.Errorf("Run did not end:\n%s", stacks[:runtime.Stack(stacks, true)])
		}
	})
	eventually(h.t, "the first listing of interfaces", func() (bool, string) { return len(l.Interfaces()) > 0, "none" })
	return l, reg
}

// read returns a counter or gauge of a registry, by its name and labels as
// Prometheus writes them.
func read(t testing.TB, reg *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "belfry_layer2_"+name {
			continue
		}
	next:
		for _, m := range f.GetMetric() {
			for i := 0; i < len(labels); i += 2 {
				found := false
				for _, p := range m.GetLabel() {
					found = found || p.GetName() == labels[i] && p.GetValue() == labels[i+1]
				}
				if !found {
					continue next
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// need skips the test where an observer is not installed.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("SKIPPED: %s is not installed", p)
		}
	}
}

// tap returns a socket that sends from an interface as it is told, and what
// reaches that interface, for whomever it is.
func (h host) tap(name string) (*socket, <-chan []byte) {
	h.t.Helper()
	const everything = 0x0003 // ETH_P_ALL
	index := h.index(name)
	var s *socket
	h.do(func() (err error) {
		s, err = openSocket(index, everything, byRuntime, []bpf.Instruction{
			bpf.LoadExtension{Num: bpf.ExtType},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 1},
			bpf.RetConstant{Val: accept},
			bpf.RetConstant{Val: 0},
		})
		if err != nil {
			return err
		}
		// Whoever reads may get no processor for a while, and must not miss anything.
		return s.raw.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
				h.t.Log("a small buffer for what is heard:", err)
			}
		})
	})
	frames := make(chan []byte, 65536)
	ended := make(chan error, 1)
	go func() {
		ended <- s.receive(func(frame []byte) { frames <- bytes.Clone(frame) })
	}()
	h.t.Cleanup(func() {
		s.close()
		if err := <-ended; err != nil {
			h.t.Errorf("tap: %v", err)
		}
	})
	return s, frames
}

func testLog(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }
