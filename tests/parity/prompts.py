"""Beginnings of texts for comparing answers: prose, lists, code, figures, languages."""

PROMPTS = """
Once upon a time there was
The capital of France is
In the morning the shepherds
Water boils at a temperature of
The three laws of motion are
To make bread, you first need
She opened the letter and read
A short history of the printing press:
The most important thing about learning a language is
My favourite season is autumn because
def fibonacci(n):
import numpy as np
for i in range(10):
SELECT name, price FROM products WHERE
<!DOCTYPE html>
{"name": "Alice", "age": 30, "city":
#include <stdio.h>
class Stack:
function add(a, b) {
git commit -m "
1, 2, 4, 8, 16,
2 + 2 = 4, 3 + 3 = 6, 4 + 4 =
The area of a circle with radius 3 is
Monday, Tuesday, Wednesday,
a b c d e f g
In 1969, the first
On average, a litre of milk weighs
The temperature fell to -12 degrees, so
Chapter 1
Dear Sir or Madam,
To be, or not to be,
Ingredients: 200 g flour, 2 eggs,
Q: What is the largest planet?
Question: Why is the sky blue? Answer:
True or false: whales are fish.
Translate to French: good morning
La montagne est
Der Hund läuft
El gato duerme en
Il lago è molto
The word "alpage" means
Breaking news: scientists have discovered
According to the report,
The patient was treated with
It is a truth universally acknowledged, that
The train leaves at 9:45 and arrives
First, open the settings. Then
Pros: cheap, light. Cons:
Dogs are loyal; cats are
The opposite of hot is
If it rains tomorrow, we will
He said nothing for a long while, then
The committee agreed that the new rules
Photosynthesis is the process by which
An atom consists of
""".strip().splitlines()

QUESTIONS = [
    "What is a mountain pasture?",
    "Write a haiku about snow.",
    "Explain recursion to a child.",
    "List three uses of copper.",
    "Who wrote Hamlet, and when?",
]
