// Package policy decides which people may take which action, by rules that an operator
// can write down in a policy.yaml, in the spirit of OpenStack's.
//
// It is pure: text in, verdicts out. What is an action and who asks, its caller knows.
//
// It may import a YAML parser that keeps line numbers, nothing of tarn.
//
// It promises that what no rule allows is denied, that a file with an action, rule,
// role or key that does not exist is refused as a whole, with the line, and that no
// file gives an action to a role beyond the action's ceiling.
package policy
