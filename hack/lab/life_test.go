package lab_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// remains tells what there still is of a run, from what the machine says and
// not from what the lab believes.
func remains(t *testing.T, name string) error {
	t.Helper()
	netns, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(netns)) {
		if strings.HasPrefix(line, name+"-") {
			return fmt.Errorf("namespace %s", line)
		}
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range procs {
		cmdline, err := os.ReadFile(file)
		if err == nil && (bytes.Contains(cmdline, []byte("/"+name+"/")) || bytes.Contains(cmdline, []byte("--lab\x00"+name+"\x00"))) {
			return fmt.Errorf("process %s: %s", file, bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))
		}
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/" + name + "-*")
	if err != nil {
		t.Fatal(err)
	}
	perController, err := filepath.Glob("/sys/fs/cgroup/*/" + name + "-*")
	if err != nil {
		t.Fatal(err)
	}
	if groups = append(groups, perController...); len(groups) > 0 {
		return fmt.Errorf("control groups %v", groups)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/"+name) {
			return fmt.Errorf("mount %s", line)
		}
	}
	if _, err := os.Stat(filepath.Join(lab.StateDir(), name, "state.json")); err == nil {
		return fmt.Errorf("state in %s", filepath.Join(lab.StateDir(), name))
	}
	return nil
}

func TestRunsStandSideBySideAndLeaveNothing(t *testing.T) {
	first := shared.Get(t)
	second, err := lab.Up(t.Context(), lab.Options{Nodes: 1})
	if err != nil {
		t.Fatal(err)
	}
	if remains(t, second.Name) == nil {
		t.Fatal("nothing remains of a run that is up: the check sees nothing")
	}
	for _, l := range []*lab.Lab{first, second} {
		out, err := l.Cluster.Kubectl(t.Context(), "get", "nodes", "--output=name")
		if err != nil {
			t.Error(err)
		}
		if got, want := len(strings.Fields(out)), len(l.Network.Nodes()); got != want {
			t.Errorf("lab %s has the nodes %q, want %d", l.Name, out, want)
		}
	}
	if err := second.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := remains(t, second.Name); err != nil {
		t.Errorf("after Down there remains: %v", err)
	}
	if err := second.RemoveLogs(); err != nil {
		t.Error(err)
	}
	if _, err := first.Cluster.Kubectl(t.Context(), "get", "nodes"); err != nil {
		t.Errorf("the end of one run ended the other: %v", err)
	}
}

// startChild starts a process with a lab of its own, of one of the kinds of
// children.
func startChild(t *testing.T, kind string) (process *os.Process, name string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+kind)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	name = strings.TrimSpace(line)
	if err != nil || !strings.HasPrefix(name, "bf") {
		t.Fatalf("the child says %q: %v", line, err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Join(lab.StateDir(), name)) })
	return cmd.Process, name
}

func TestAnInterruptedRunLeavesNothing(t *testing.T) {
	shared.Get(t) // or skip
	process, name := startChild(t, "plain")
	if err := process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error { return remains(t, name) })
}

func TestARunInterruptedOnItsWayUpLeavesNothing(t *testing.T) {
	shared.Get(t) // or skip
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=plain")
	must(t, cmd.Start())
	var name string
	eventually(t, 20*time.Second, func() error {
		runs, err := lab.List()
		if err != nil {
			return err
		}
		for _, r := range runs {
			if r.Owner == cmd.Process.Pid {
				name = r.Name
				return nil
			}
		}
		return errNotYet
	})
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Join(lab.StateDir(), name)) })
	// Once it has hosts, so that there is something to leave.
	eventually(t, 20*time.Second, func() error {
		if _, err := os.Stat("/run/netns/" + name + "-switch"); err != nil {
			return err
		}
		return nil
	})
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait()
	if err := remains(t, name); err != nil {
		t.Errorf("there remains: %v", err)
	}
}

func TestAKilledRunIsRemovedByTheNext(t *testing.T) {
	l := shared.Get(t)
	for kind, opts := range children {
		t.Run(kind, func(t *testing.T) {
			lab.Require(t, opts)
			isRemovedByTheNext(t, l, kind)
		})
	}
}

func isRemovedByTheNext(t *testing.T, l *lab.Lab, kind string) {
	process, name := startChild(t, kind)
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		runs, err := lab.List()
		if err != nil {
			return err
		}
		for _, r := range runs {
			if r.Name == name && !r.Dead {
				return errNotYet
			}
		}
		return nil
	})
	if _, err := lab.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	// Another run may have swept it meanwhile, and may still be at it.
	eventually(t, 20*time.Second, func() error { return remains(t, name) })
	if _, err := l.Cluster.Kubectl(t.Context(), "get", "nodes"); err != nil {
		t.Errorf("the sweep hurt a living run: %v", err)
	}
}
