package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

const plugin = "kubectl-belfry"

// askPlugin asks for the status of a cluster with the mass of Services.
func askPlugin(ctx context.Context, b *bench) error {
	c, err := b.full(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "belfry-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, plugin)
	if err := buildBinary(ctx, plugin, program); err != nil {
		return err
	}
	var best time.Duration
	for range 5 {
		status := c.Network.Command(ctx, lab.ControlPlane, program, "--kubeconfig", c.Cluster.AdminKubeconfig(), "status")
		begun := time.Now()
		out, err := status.CombinedOutput()
		took := time.Since(begun)
		var problems *exec.ExitError
		if errors.As(err, &problems) && problems.ExitCode() == 1 {
			err = nil // of the cluster
		}
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if !strings.Contains(string(out), fmt.Sprintf("Services    %d,", b.services)) {
			return fmt.Errorf("it counts other Services than %d:\n%s", b.services, out)
		}
		if best == 0 || took < best {
			best = took
		}
	}
	b.found("plugin/status", best.Seconds(), "")
	return nil
}
