package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// birdProgram is where Debian puts BIRD, which may not be on a user's PATH.
const birdProgram = "/usr/sbin/bird"

// UnableBIRD says why BIRD cannot run here; nil means it can.
func UnableBIRD() error {
	for _, program := range []string{birdProgram, "birdc"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("BIRD is not installed (lab deps): %w", err)
		}
	}
	return nil
}

// BIRD is the name of BIRD's process.
const BIRD = "bird"

// StartBIRD starts BIRD on the router, with a configuration. FRR may be there
// too if one of them listens on another port.
func (l *Lab) StartBIRD(ctx context.Context, conf string) error {
	dir := l.birdDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := l.spreadByPorts(); err != nil {
		return err
	}
	file := filepath.Join(dir, "bird.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return err
	}
	if _, err := l.spawn(BIRD, Router, birdProgram, "-f", "-c", file, "-s", filepath.Join(dir, "ctl"), "-P", filepath.Join(dir, "pid")); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := await(limit, "wait for BIRD", func() error {
		_, err := l.Birdc(limit, "show status")
		return err
	}); err != nil {
		return l.firstDead(err)
	}
	return nil
}

func (l *Lab) birdDir() string { return filepath.Join(l.Dir, dataDir, "bird") }

// Birdc gives BIRD a command and returns what it prints.
func (l *Lab) Birdc(ctx context.Context, command string) (string, error) {
	out, err := l.Exec(ctx, "", append([]string{"birdc", "-s", filepath.Join(l.birdDir(), "ctl")}, strings.Fields(command)...)...)
	_, text, _ := strings.Cut(out, "ready.\n")
	return text, err
}

// spreadByPorts has the router's kernel choose among next hops that are equally
// good by ports too.
func (l *Lab) spreadByPorts() error {
	return l.inside(Router, func() error {
		for _, key := range []string{"net/ipv4/fib_multipath_hash_policy", "net/ipv6/fib_multipath_hash_policy"} {
			if err := os.WriteFile("/proc/sys/"+key, []byte("1"), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}
