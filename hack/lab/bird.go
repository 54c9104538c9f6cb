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
func (r *Routers) StartBIRD(ctx context.Context, conf string) error {
	dir := r.birdDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := r.spreadByPorts(); err != nil {
		return err
	}
	file := filepath.Join(dir, "bird.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return err
	}
	if _, err := r.processes.spawn(BIRD, Router, birdProgram, "-f", "-c", file, "-s", filepath.Join(dir, "ctl"), "-P", filepath.Join(dir, "pid")); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := await(limit, "wait for BIRD", func() error {
		_, err := r.Birdc(limit, "show status")
		return err
	}); err != nil {
		return r.processes.firstDead(err)
	}
	return nil
}

func (r *Routers) birdDir() string { return r.run.data("bird") }

// Birdc gives BIRD a command and returns what it prints.
func (r *Routers) Birdc(ctx context.Context, command string) (string, error) {
	out, err := r.network.Exec(ctx, "", append([]string{"birdc", "-s", filepath.Join(r.birdDir(), "ctl")}, strings.Fields(command)...)...)
	_, text, _ := strings.Cut(out, "ready.\n")
	return text, err
}
