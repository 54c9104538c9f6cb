// Command monitoring writes the dashboards: one JSON file each, into a directory.
//
//	go -C hack/monitoring run . dashboards DIRECTORY
//
// Its tests hold dashboards and alerts to the metrics that there are: Prometheus' own
// parser reads the queries, its engine answers them from what the programs were recorded
// to say, and its own tester says when alerts fire. It is apart, so that none of what
// that takes reaches the product.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 3 || os.Args[1] != "dashboards" {
		fmt.Fprintln(os.Stderr, "usage: monitoring dashboards DIRECTORY")
		os.Exit(2)
	}
	if err := write(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "monitoring:", err)
		os.Exit(1)
	}
}

// write writes all dashboards.
func write(dir string) error {
	for _, b := range boards {
		text, err := b.render()
		if err != nil {
			return fmt.Errorf("dashboard %s: %w", b.name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, b.file()), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// file is the name of a dashboard's file.
func (b board) file() string { return "belfry-" + b.name + ".json" }

// render is the dashboard as Grafana reads it.
func (b board) render() ([]byte, error) {
	d, err := b.build()
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err = e.Encode(d)
	return text.Bytes(), err
}
