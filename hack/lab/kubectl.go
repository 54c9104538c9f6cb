package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
)

// KubectlCommand prepares kubectl as the admin.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	return c.network.Command(ctx, c.host(), append([]string{c.run.programs["kubectl"], "--kubeconfig=" + c.AdminKubeconfig()}, args...)...)
}

// Kubectl runs kubectl as the admin and returns what it prints. Its complaint
// is in the error.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.KubectlInput(ctx, "", args...)
}

// Apply applies YAML as the admin.
func (c *Cluster) Apply(ctx context.Context, yaml string) error {
	_, err := c.KubectlInput(ctx, yaml, "apply", "-f", "-")
	return err
}

// KubectlInput is Kubectl with something on its standard input.
func (c *Cluster) KubectlInput(ctx context.Context, stdin string, args ...string) (string, error) {
	return output(c.KubectlCommand(ctx, args...), stdin, "kubectl", args)
}

// Shell prepares bash as an admin has it at a terminal: in the source tree's
// root, with kubectl and helm on the PATH, and the run as the cluster that they
// speak to. It shows each command of the script before it runs it, and stops at
// the first that fails. Helm is built if it is not in the cache yet; it is told
// nothing of who runs the lab.
func (c *Cluster) Shell(ctx context.Context, script string) (*exec.Cmd, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	programs, err := build(ctx, c.run.progress, []toolchain{helm})
	if err != nil {
		return nil, err
	}
	bin := c.run.data("shell")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, err
	}
	for name, program := range map[string]string{"kubectl": c.run.programs["kubectl"], "helm": programs["helm"]} {
		link := filepath.Join(bin, name)
		if to, err := os.Readlink(link); err == nil && to == program {
			continue
		}
		if err := os.Symlink(program, link); err != nil {
			return nil, err
		}
	}
	cmd := c.network.Command(ctx, c.host(), "bash", "-euo", "pipefail", "-c", "PS4='$ '; set -x\n"+script)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "KUBECONFIG="+c.AdminKubeconfig())
	for _, home := range []string{"CACHE", "CONFIG", "DATA"} {
		cmd.Env = append(cmd.Env, "HELM_"+home+"_HOME="+filepath.Join(bin, "helm-"+home))
	}
	return cmd, nil
}
