package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// The hosts of every run beside its nodes.
const (
	Switch       = "switch"
	ControlPlane = "cp"
	Client       = "client"
	Router       = "router"
)

// maxNodes is what the address plan has room for.
const maxNodes = 100

type addresses struct{ v4, v6 netip.Addr }

// Unable says why this process cannot make network namespaces; nil means it
// can.
func Unable() error {
	if os.Geteuid() != 0 {
		return errors.New("the lab makes network namespaces, for which it must run as root")
	}
	for _, tool := range []string{"ip", "nft", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("the lab needs %s, which is not installed (lab deps)", tool)
		}
	}
	return canUnshare()
}

// canUnshare tries what the lab lives by, on a thread that is then thrown away.
func canUnshare() error {
	err := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		err <- unix.Unshare(unix.CLONE_NEWNET)
	}()
	if err := <-err; err != nil {
		return fmt.Errorf("the lab cannot make network namespaces here: unshare: %w", err)
	}
	return nil
}

func lockThread() { runtime.LockOSThread() }

// netnsPath is the file of a host's namespace; empty for the machine's own.
func (l *Lab) netnsPath(host string) string {
	if host == "" {
		return ""
	}
	return "/run/netns/" + l.Name + "-" + host
}

func hostAddress(host string) addresses { return addresses{} }

func (l *Lab) bringUp(ctx context.Context) error { return errors.New("not yet") }

func (l *Lab) removeNamespaces(ctx context.Context) error { return nil }

// inside runs f on a thread that is in a host's namespace. Sockets that f opens
// belong to that namespace for good.
func (l *Lab) inside(host string, f func() error) error {
	ns, err := os.Open(l.netnsPath(host))
	if err != nil {
		return fmt.Errorf("host %s: %w", host, err)
	}
	defer ns.Close()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter host %s: %w", host, err)
	}
	defer func() {
		// A thread that cannot go home stays locked and dies with its goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

// dialer dials from a host. Addresses must be literal: a name would be looked
// up, and two addresses raced, on threads of other namespaces.
func (l *Lab) dialer(host string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		if _, err := netip.ParseAddrPort(address); err != nil {
			return nil, fmt.Errorf("dial from %s: %w", host, err)
		}
		err = l.inside(host, func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}
