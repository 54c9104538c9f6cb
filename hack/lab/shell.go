package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
)

// Shell prepares bash as an admin has it at a terminal: in the source tree's
// root, with kubectl and helm on the PATH, and the run as the cluster that they
// speak to. It shows each command of the script before it runs it, and stops at
// the first that fails. Helm is built if it is not in the cache yet; it is told
// nothing of who runs the lab.
func (l *Lab) Shell(ctx context.Context, script string) (*exec.Cmd, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	programs, err := build(ctx, l.progress, []toolchain{helm})
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(l.Dir, dataDir, "shell")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, err
	}
	for name, program := range map[string]string{"kubectl": l.state.Programs["kubectl"], "helm": programs["helm"]} {
		link := filepath.Join(bin, name)
		if to, err := os.Readlink(link); err == nil && to == program {
			continue
		}
		if err := os.Symlink(program, link); err != nil {
			return nil, err
		}
	}
	cmd := l.Command(ctx, l.controlPlaneHost(), "bash", "-euo", "pipefail", "-c", "PS4='$ '; set -x\n"+script)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "KUBECONFIG="+l.AdminKubeconfig())
	for _, home := range []string{"CACHE", "CONFIG", "DATA"} {
		cmd.Env = append(cmd.Env, "HELM_"+home+"_HOME="+filepath.Join(bin, "helm-"+home))
	}
	return cmd, nil
}
