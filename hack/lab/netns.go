package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

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
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		result <- unix.Unshare(unix.CLONE_NEWNET)
	}()
	if err := <-result; err != nil {
		return fmt.Errorf("the lab cannot make network namespaces here: unshare: %w", err)
	}
	return nil
}

// Netns is the name of a host's namespace, as ip netns has it.
func (n *Network) Netns(host string) string { return n.run.netns(host) }

// ipBatch runs ip's commands in a namespace, or in the machine's own.
func ipBatch(ctx context.Context, netns string, lines []string) error {
	args := []string{"-batch", "-"}
	if netns != "" {
		args = append([]string{"-n", netns}, args...)
	}
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		where := "this machine"
		if netns != "" {
			where = netns
		}
		return fmt.Errorf("ip on %s: %w: %s\nin:\n%s", where, err, out, strings.Join(lines, "\n"))
	}
	return nil
}

// inside runs f on a thread that is in a host's namespace. Sockets that f opens
// belong to that namespace for good.
func (n *Network) inside(host string, f func() error) error {
	ns, err := os.Open(n.run.netnsPath(host))
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
func (n *Network) dialer(host string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		if _, err := netip.ParseAddrPort(address); err != nil {
			return nil, fmt.Errorf("dial from %s: %w", host, err)
		}
		err = n.inside(host, func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// lockThread keeps the calling goroutine on its thread for good.
func lockThread() { runtime.LockOSThread() }

// Listen listens on a host, at a literal address and port.
func (n *Network) Listen(ctx context.Context, host, network, address string) (listener net.Listener, err error) {
	err = n.inside(host, func() error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		listener, err = lc.Listen(ctx, network, address)
		return err
	})
	return listener, err
}

// Exec runs a program in a host's namespace and returns its standard output.
// What it wrote to standard error is in the error.
func (n *Network) Exec(ctx context.Context, host string, args ...string) (string, error) {
	return n.execInput(ctx, host, "", args...)
}

func (n *Network) execInput(ctx context.Context, host, stdin string, args ...string) (string, error) {
	return output(n.Command(ctx, host, args...), stdin, filepath.Base(args[0]), args[1:])
}

// output runs a prepared program, of which what and args tell in an error.
func output(cmd *exec.Cmd, stdin, what string, args []string) (string, error) {
	var out, complaint bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", what, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// Command prepares a program that runs in a host's namespace.
func (n *Network) Command(ctx context.Context, host string, args ...string) *exec.Cmd {
	if ns := n.run.netnsPath(host); ns != "" {
		args = append([]string{"nsenter", "--net=" + ns, "--"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = time.Second // a grandchild must not hold us by our pipe
	return cmd
}
