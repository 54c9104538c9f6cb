package lab

import (
	"context"
	"errors"
	"os"
)

// PauseAPI stops the API server (SIGSTOP): connections stay and nothing is
// answered.
func (c *Cluster) PauseAPI() error { return c.processes.do("kube-apiserver", (*Process).Pause) }

// ResumeAPI lets the API server go on.
func (c *Cluster) ResumeAPI() error { return c.processes.do("kube-apiserver", (*Process).Resume) }

// PauseEtcd stops etcd (SIGSTOP): the API server still reads what it has cached,
// and every write waits.
func (c *Cluster) PauseEtcd() error { return c.processes.do("etcd", (*Process).Pause) }

// ResumeEtcd lets etcd go on.
func (c *Cluster) ResumeEtcd() error { return c.processes.do("etcd", (*Process).Resume) }

// BackupEtcd keeps the state of the cluster as it is; the API server is without
// etcd for a moment.
func (c *Cluster) BackupEtcd(ctx context.Context) error {
	return c.whileEtcdIsDown(ctx, func(data, backup string) error {
		return errors.Join(os.RemoveAll(backup), os.CopyFS(backup, os.DirFS(data)))
	})
}

// RestoreEtcd puts the state of the cluster back to what was kept, versions of
// objects included.
func (c *Cluster) RestoreEtcd(ctx context.Context) error {
	return c.whileEtcdIsDown(ctx, func(data, backup string) error {
		return errors.Join(os.RemoveAll(data), os.CopyFS(data, os.DirFS(backup)))
	}, "kube-apiserver")
}

// whileEtcdIsDown stops etcd, does something to its data, and starts it again. Others
// are killed meanwhile: an API server that is asked to end waits a minute for those
// who watch.
func (c *Cluster) whileEtcdIsDown(ctx context.Context, do func(data, backup string) error, others ...string) error {
	etcd, err := c.processes.Process("etcd")
	if err != nil {
		return err
	}
	parts := []*Process{etcd}
	for _, name := range others {
		p, err := c.processes.Process(name)
		if err != nil {
			return err
		}
		if err := p.Kill(ctx); err != nil {
			return err
		}
		parts = append(parts, p)
	}
	if err := etcd.Terminate(ctx); err != nil {
		return err
	}
	data := c.run.data("etcd")
	if err := do(data, data+".backup"); err != nil {
		return err
	}
	for _, p := range parts {
		if err := c.processes.Restart(ctx, p.Name); err != nil {
			return err
		}
	}
	return c.awaitAPI(ctx, parts...)
}
