package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// frrPrograms is where Debian puts FRR's daemons.
const frrPrograms = "/usr/lib/frr/"

// UnableFRR says why FRR cannot run here; nil means it can.
func UnableFRR() error {
	for _, program := range []string{frrPrograms + "zebra", frrPrograms + "bgpd", "vtysh"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("FRR is not installed (lab deps): %w", err)
		}
	}
	return nil
}

// StartFRR starts FRR on the router: zebra, bgpd with a configuration, and bfdd.
// What bgpd learns enters the router's kernel, which spreads connections over
// next hops that are equally good.
func (r *Routers) StartFRR(ctx context.Context, bgpd string) error {
	dir := r.frrDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The daemons give up being root.
	if out, err := exec.CommandContext(ctx, "chown", "frr:frr", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("chown %s: %w: %s", dir, err, out)
	}
	if err := r.spreadByPorts(); err != nil {
		return err
	}
	for _, d := range []struct{ name, conf string }{{"zebra", ""}, {"bfdd", ""}, {"bgpd", bgpd}} {
		conf := filepath.Join(dir, d.name+".conf")
		if err := os.WriteFile(conf, []byte(d.conf), 0o644); err != nil {
			return err
		}
		args := []string{
			frrPrograms + d.name, "-u", "frr", "-g", "frr", "-f", conf, "-i", filepath.Join(dir, d.name+".pid"),
			"-z", filepath.Join(dir, "zserv.api"), "--vty_socket", dir,
		}
		switch d.name {
		case "bfdd":
			args = append(args, "--bfdctl", filepath.Join(dir, "bfdd.sock"))
		case "zebra":
			// Otherwise it deletes an IPv6 route before it adds what replaces it.
			args = append(args, "--v6-rr-semantics")
		}
		if _, err := r.processes.spawn("frr/"+d.name, Router, args...); err != nil {
			return err
		}
		limit, cancel := context.WithTimeout(ctx, 20*time.Second)
		err := await(limit, "wait for FRR's "+d.name, func() error {
			_, err := os.Stat(filepath.Join(dir, d.name+".vty"))
			return err
		})
		cancel()
		if err != nil {
			return r.processes.firstDead(err)
		}
	}
	return nil
}

func (r *Routers) frrDir() string { return r.run.data("frr") }

// Vtysh enters commands into FRR and returns what it prints.
func (r *Routers) Vtysh(ctx context.Context, commands ...string) (string, error) {
	args := []string{"vtysh", "--vty_socket", r.frrDir()}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	return r.network.Exec(ctx, "", args...)
}

// VtyshJSON decodes what a show command prints as JSON.
func (r *Routers) VtyshJSON(ctx context.Context, command string, into any) error {
	out, err := r.Vtysh(ctx, command+" json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return nil
}
