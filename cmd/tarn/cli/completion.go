package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// The scripts only ask the binary, so that a new command needs no new script.
const bashScript = `_tarn() {
  local IFS=$'\n'
  COMPREPLY=( $(tarn __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null) )
}
complete -o default -F _tarn tarn
`

const zshScript = `#compdef tarn
_tarn() {
  local -a candidates
  candidates=( ${(f)"$(tarn __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"} )
  compadd -a candidates
}
compdef _tarn tarn
`

const fishScript = `complete -c tarn -f -a '(tarn __complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
`

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (c *completionCmd) Run(a *app) error {
	script := map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[c.Shell]
	fmt.Fprint(a.stdout, script)
	return nil
}

type completeCmd struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

func (c *completeCmd) Run(a *app) error {
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	for _, candidate := range candidates(a.parser.Model.Node, words) {
		fmt.Fprintln(a.stdout, candidate)
	}
	return nil
}

// candidates follows the finished words down the grammar and answers what may
// come in place of the last, unfinished one.
func candidates(node *kong.Node, words []string) []string {
	last := ""
	if len(words) > 0 {
		last = words[len(words)-1]
		words = words[:len(words)-1]
	}
	for _, word := range words {
		if child := childNamed(node, word); child != nil {
			node = child
		}
	}
	var out []string
	if strings.HasPrefix(last, "-") {
		out = flagNames(node)
	} else {
		out = childNames(node)
	}
	out = slices.DeleteFunc(out, func(s string) bool { return !strings.HasPrefix(s, last) })
	slices.Sort(out)
	return slices.Compact(out)
}

func childNamed(node *kong.Node, name string) *kong.Node {
	for _, child := range node.Children {
		if child.Name == name {
			return child
		}
	}
	return nil
}

func childNames(node *kong.Node) []string {
	var out []string
	for _, child := range node.Children {
		if !child.Hidden {
			out = append(out, child.Name)
		}
	}
	return out
}

func flagNames(node *kong.Node) []string {
	var out []string
	for ; node != nil; node = node.Parent {
		for _, flag := range node.Flags {
			if !flag.Hidden {
				out = append(out, "--"+flag.Name)
			}
		}
	}
	return out
}
