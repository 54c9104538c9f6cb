package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// runc is the program that we stand for.
const runc = "/usr/sbin/runc"

// wrap takes out of a bundle what a root without CAP_SYS_RESOURCE cannot give
// a container, and becomes runc.
func wrap(args []string) error {
	if slices.Contains(args, "create") {
		i := slices.Index(args, "--bundle")
		if i < 0 || i+1 == len(args) {
			return fmt.Errorf("create without --bundle: %q", args)
		}
		file := filepath.Join(args[i+1], "config.json")
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if b, err = unlimited(b); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := os.WriteFile(file, b, 0o644); err != nil {
			return err
		}
	}
	return syscall.Exec(runc, append([]string{"runc"}, args...), os.Environ())
}

// unlimited removes the limits that only CAP_SYS_RESOURCE may set from a
// bundle's configuration.
func unlimited(config []byte) ([]byte, error) {
	var spec map[string]json.RawMessage
	if err := json.Unmarshal(config, &spec); err != nil {
		return nil, err
	}
	var process map[string]json.RawMessage
	if err := json.Unmarshal(spec["process"], &process); err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	delete(process, "oomScoreAdj")
	delete(process, "rlimits")
	b, err := json.Marshal(process)
	if err != nil {
		return nil, err
	}
	spec["process"] = b
	return json.Marshal(spec)
}
